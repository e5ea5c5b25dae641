"""Does a test fail wherever the code is wrong? A tool for development; pytest does not collect it.

    python tests/mutate.py [NN_name ...] [--processes 2]

changes every exported function of the pages named (by default those of Part I), one thing at a time: a sign, an operator, a constant, a comparison, an argument, a name taken
for its neighbour, a call or a check left out. Of each such mutant it runs the page, then tests/test_properties.py and tests/test_bad_input.py, until something fails. It prints
what nothing caught and the score, and ends with 1 unless all that survived is listed in EQUIVALENT: changes that compute the same thing.
"""
import argparse, ast, copy, difflib, os, re, signal, sys, traceback, types
os.environ['MPLBACKEND'] = 'agg'
import fastcore.all, fastcore.test, hypothesis, matplotlib.pyplot, numpy, pytest, torch   # once, for all the children; not cfg_repro
import project

TESTS = [f'tests/{name}.py' for name in ('test_bad_input', 'test_properties') if (project.root/f'tests/{name}.py').exists()]
SECONDS = 120                                                                             # for one mutant; more is caught as well

# (page, line before, line after): why it is no mistake. `...` stands for any text.
IMAGES, GPU, VARIANCE = 'the images are of one shape', 'only a GPU would show it', 'only the variance of it is used, and that does not look at the images'
EQUIVALENT = {
    ('00_schedule', "if u.device.type == 'cpu' ...", "if (1 - u).device.type == 'cpu' ..."): '1-u is where u is',
    ('00_schedule', 'return int(T)', 'return T'): 'linspace takes 4.0 for 4 here, not in every version of torch',
    ('01_forward', 'alpha, sigma = alpha_sigma(beside(logsnr, ...', 'alpha, sigma = alpha_sigma(beside(logsnr, ...'): IMAGES,
    ('01_forward', 'return torch.where(y < math.log(2), ...', 'return torch.where(y <= math.log(2), ...'): 'there both are right',
    ('01_forward', 'return torch.where(y < math.log(2), ...', 'return torch.where(y < 2, ...'): 'between the two, both are right to all digits',
    ('01_forward', 'return torch.where(y < math.log(2), ...', 'return torch.where(y < math.log(3), ...'): 'between the two, both are right to all digits',
    ('02_reverse', 'return (mean, log1mexp(rise(beside(logsnr, z), ...', 'return (mean, log1mexp(rise(beside(logsnr, x), ...'): IMAGES,
    ('02_reverse', '(_, sigma), (alpha_next, sigma_next) = (alpha_sigma(beside(logsnr, z)), ...', '(_, sigma), (alpha_next, sigma_next) = (alpha_sigma(beside(logsnr, x)), ...'): IMAGES,
    ('02_reverse', 'if not 0 <= v <= 1:', 'if not 0 <= 1 - v <= 1:'): 'v is in [0,1] where 1-v is',
    ('02_reverse', '_, logvar_max = transition(z, ...', '_, logvar_max = transition(x, ...'): VARIANCE,
    ('03_mixture', 'log_pi = torch.cat(...', 'log_pi = torch.cat(...'): 'zero has all digits in any precision, and what stands behind it is never looked up',
    ('04_objective', 'if not (eps.shape == x.shape and ...', 'if not (eps.shape == x.shape and ...== eps.shape[:1]):'): IMAGES,
    ('04_objective', 'z = diffuse(x, eps, ...', '... * (eps.dim() - 1)))'): IMAGES,
    ('04_objective', 'if not 0 <= p_uncond <= 1:', 'if not 0 <= 1 - p_uncond <= 1:'): 'p is in [0,1] where 1-p is',
    ('04_objective', 'return c.masked_fill(...', 'return c.masked_fill(torch.rand(c.shape, generator=generator) < p_uncond, null)'): GPU,
    ('04_objective', 'device = generator.device if ...', "device = 'cpu'"): GPU,
    ('04_objective', 'device = generator.device if ...', "device = generator.device if generator is None else 'cpu'"): GPU,
    ('04_objective', 'u0 = torch.rand((), ...', 'u0 = torch.rand((), dtype=torch.float64, generator=generator)'): GPU,
    ('04_objective', 'return (u0 + ...', 'return (u0 + torch.arange(n, dtype=torch.float64) / n) % 1'): GPU,
    ('05_classifier_guidance', 'with torch.inference_mode(False), torch.enable_grad():', 'with torch.inference_mode(False):'): 'it switches gradients on as well, which its documentation does not promise',
    ('05_classifier_guidance', 'z, c, logsnr = (t.detach().clone() ...', 'z, c, logsnr = (t.clone() ...'): 'the gradient is taken at z itself, wherever z came from',
    ('05_classifier_guidance', '...log_softmax(-1)', '...log_softmax(1)'): 'logits are (B,n_classes)',
    ('05_classifier_guidance', 'if not math.isfinite(w):', 'if not math.isfinite(1 + w):'): 'w is finite where 1+w is',
    ('05_classifier_guidance', 'grad_logp = ...logsnr.to(z)...', 'grad_logp = ...logsnr.to(x)...'): IMAGES,
    ('05_classifier_guidance', 'grad_logp = ...expand(len(z)))', 'grad_logp = ...expand(len(x)))'): IMAGES,
    ('06_guidance', 'if (torch.is_tensor(w) or ...', '...torch.as_tensor(1 + w).isfinite().all():'): 'w is finite where 1+w is',
    ('06_guidance', 'return w if torch.is_tensor(w) else ...', 'return w if torch.is_tensor(1 + w) else ...'): 'w is a tensor where 1+w is',
    ('06_guidance', 'if wt.dim():', 'if (1 + wt).dim():'): 'the sum has the same shape',
    ('06_guidance', 'return -(eps_cond - eps_uncond) / ...', '...beside(logsnr, eps_uncond))[1]'): IMAGES,
    ('07_sampling', 'if z.dtype not in (torch.float32, torch.float64):', 'if z.dtype not in (torch.float64, torch.float32):'): 'the same two',
}


def reason(page, old, new):
    "Why a mutant is no mistake, if it is listed."
    def like(text, pattern): return re.fullmatch('.*'.join(map(re.escape, pattern.split('...'))), text)
    return next((why for (p, a, b), why in EQUIVALENT.items() if p == page and like(old, a) and like(new, b)), None)


SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And}
COMPARISONS = {ast.Lt: (ast.Gt, ast.LtE), ast.Gt: (ast.Lt, ast.GtE), ast.LtE: (ast.GtE, ast.Lt), ast.GtE: (ast.LtE, ast.Gt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
               ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,)}
NEIGHBOURS = [('logsnr', 'logsnr_next'), ('logsnr', 'logsnr_prev'), ('logsnr_min', 'logsnr_max'), ('alpha', 'sigma'), ('alpha', 'alpha_next'), ('sigma', 'sigma_next'),
              ('eps_cond', 'eps_uncond'), ('eps', 'eps_hat'), ('x_tilde', 'eps_tilde'), ('x', 'x_prev'), ('x', 'eps'), ('x', 'z'), ('z', 'eps'), ('z', 'score'), ('c', 'none'),
              ('mean', 'logvar'), ('logvar', 'logvar_max'), ('means', 'stds'), ('a', 'b')]
ONE_MORE, COMPLEMENT = ('w', 'wt', 's'), ('v', 'u', 'p_uncond')
ODD = ('exp', 'sigmoid', 'tan', 'atan', 'softmax', 'log_softmax')                         # a minus before their argument matters


def changed(node, **fields):
    new = copy.copy(node)
    vars(new).update(fields)
    return new


def swapped(items, i):
    return items[:i] + [items[i+1], items[i]] + items[i+2:]


def variants(node, names):
    "Everything that one node may be changed into."
    one, minus = ast.Constant(1), lambda value: ast.UnaryOp(ast.USub(), value)
    match node:
        case ast.BinOp():
            if type(node.op) in SWAPS: yield changed(node, op=SWAPS[type(node.op)]())
            if isinstance(node.op, ast.Mod): yield node.left
            if isinstance(node.left, ast.Constant) and node.left.value == 1: yield node.right
        case ast.BoolOp():
            yield changed(node, op=SWAPS[type(node.op)]())
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node.operand
        case ast.Compare():
            for i, op in enumerate(node.ops):
                for other in COMPARISONS.get(type(op), ()): yield changed(node, ops=[*node.ops[:i], other(), *node.ops[i+1:]])
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + (1 if isinstance(node.value, int) else .1))
            if node.value == 1: yield ast.Constant(0)
        case ast.Name(ctx=ast.Load()):
            for pair in NEIGHBOURS:
                if node.id in pair and set(pair) <= names: yield ast.Name(pair[pair[0] == node.id], ast.Load())
            if node.id in ONE_MORE: yield ast.BinOp(one, ast.Add(), node)
            if node.id in COMPLEMENT: yield ast.BinOp(one, ast.Sub(), node)
        case ast.Call():
            method = isinstance(node.func, ast.Attribute) and not (isinstance(node.func.value, ast.Name) and node.func.value.id in ('torch', 'math', 'F'))
            if method: yield node.func.value
            elif node.args: yield node.args[0]
            if method and node.func.attr in ODD: yield changed(node, func=changed(node.func, value=minus(node.func.value)))
            for i in range(len(node.args)-1): yield changed(node, args=swapped(node.args, i))
            for k in node.keywords: yield changed(node, keywords=[other for other in node.keywords if other is not k])
        case ast.Tuple(elts=[_, _]):
            yield changed(node, elts=swapped(node.elts, 0))
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.Return(value=ast.BinOp() | ast.Call()):
            yield changed(node, value=minus(node.value))
        case ast.Return(value=ast.Tuple(elts=elts)):
            for i in range(len(elts)): yield changed(node, value=changed(node.value, elts=[*elts[:i], minus(elts[i]), *elts[i+1:]]))
        case ast.If():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Subscript() | ast.Tuple(elts=[ast.Subscript(), *_])]):
            yield ast.Pass()
        case ast.With():
            for item in node.items:
                rest = [other for other in node.items if other is not item]
                yield changed(node, items=rest) if rest else ast.If(ast.Constant(True), node.body, [])
        case ast.FunctionDef(decorator_list=[ast.Call()]):
            yield changed(node, decorator_list=[])


def walk(node):
    "The nodes that are computed with: no annotation, no message of an error."
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in ('annotation', 'returns') and not isinstance(child, (ast.Raise, ast.JoinedStr)): yield from walk(child)


def mutants(source):
    "Every mutant of a cell: the function, the line before, the line after, the cell."
    tree, seen = ast.parse(source), {ast.unparse(ast.parse(source))}
    for at, function in enumerate(tree.body):
        if not isinstance(function, (ast.FunctionDef, ast.ClassDef)): continue
        names = {n.arg if isinstance(n, ast.arg) else n.id for n in ast.walk(function) if isinstance(n, ast.arg) or isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for i, node in enumerate(walk(function)):
            for new in variants(node, names):
                mutant = copy.deepcopy(tree)
                target = [*walk(mutant.body[at])][i]
                target.__class__, target.__dict__ = type(new), vars(copy.deepcopy(new))
                text = ast.unparse(ast.fix_missing_locations(mutant))
                if text in seen: continue
                seen.add(text)
                diff = [d for d in difflib.ndiff(ast.unparse(tree).split('\n'), text.split('\n')) if d[0] in '+-']
                yield function.name, *(' '.join(d[1:].strip() for d in diff if d[0] == sign) for sign in '-+'), text


def survives(name, cells):
    "Whether everything passes with these cells, in a process of its own, which this call ends."
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        if not os.environ.get('MUTATE_SHOW'): os.dup2(null, 2)
        signal.alarm(SECONDS)
        os.chdir(project.root/'nbs')
        sys.path.insert(0, str(project.root))
        package, module = __import__(project.package.name), types.ModuleType(f'{project.package.name}.{name}')
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        for source in cells:
            if re.match(r'#\|\s*export', source): exec(compile(source, name, 'exec'), vars(module))
        page = {'__name__': '__main__'}
        for source in cells:
            if not re.search(r'nbdev_export|^#\|\s*(code-fold|eval: false|slow|default_exp)', source, re.M): exec(compile(source, name, 'exec'), page)
        matplotlib.pyplot.close('all')
        os.chdir(project.root)
        os._exit(int(pytest.main(['-x', '-q', '-p', 'no:cacheprovider', '-m', 'not slow', *TESTS])))
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def run(name, todo, processes):
    "Those of the mutants (..., cells) that survive."
    left, running, survived = [*todo], {}, []
    while left or running:
        while left and len(running) < processes:
            mutant = left.pop(0)
            sys.stdout.flush()
            pid = os.fork()
            if not pid: survives(name, mutant[-1])
            running[pid] = mutant
        pid, status = os.wait()
        mutant = running.pop(pid)
        if status == 0: survived.append(mutant)
    return survived


def main(pages, processes):
    hypothesis.settings.register_profile('first_failure', phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])   # to search for the simplest one takes long
    hypothesis.settings.load_profile('first_failure')
    torch.set_num_threads(1)
    scores, bad = [], 0
    for path, notebook in project.notebooks().items():
        if not (path.stem in pages if pages else re.match('0[0-8]', path.stem)): continue
        cells, name = [source for source, _ in project.code_cells(notebook)], project.module_of(notebook)
        if not run(name, [(cells,)], 1): sys.exit(f'{path.stem} fails as it is')
        todo = [(function, old, new, [*cells[:i], '#| export\n' + text, *cells[i+1:]]) for i, source in enumerate(cells) if re.match(r'#\|\s*export', source)
                for function, old, new, text in mutants(source)]
        survived = run(name, todo, processes)
        for function, old, new, _ in survived:
            why = reason(path.stem, old, new)
            bad += why is None
            print(f'{path.stem}, {function}:\n    - {old}\n    + {new}' + (f'\n    the same: {why}' if why else ''), flush=True)
        scores.append((len(todo)-len(survived), len(todo)))
        print(f'{path.stem}: caught {scores[-1][0]} of {scores[-1][1]}', flush=True)
    print('in all: caught {} of {}; survivors that are not listed as equivalent: {}'.format(*map(sum, zip(*scores)), bad))
    sys.exit(bad > 0)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('pages', nargs='*', metavar='NN_name')
    parser.add_argument('--processes', type=int, default=2)
    main(**vars(parser.parse_args()))
