"""Does a test fail wherever the code is wrong? A tool for development; pytest does not collect it.

    python tests/mutate.py [NN_name ...] [--sample 30] [--processes 2]

changes what the pages define (those named, by default all; NN_name.f is one function), one thing at a time: a sign, an operator, a constant,
a comparison, an argument, a name taken for its neighbour, a keyword, a call or a check left out. Of each such mutant
it runs the page, then of the tests that TESTS names those that call what has changed, until something fails. All of them
see the mutant, and so do the processes that they start: they import it from a copy of the package. With --sample, so many are drawn of each page,
some of every function, the same ones each time.

It prints what nothing caught, and the score. It ends with 1 unless all that survived is listed in equivalent.txt:
changes that compute the same thing, each with the reason, in the form in which survivors are printed, where `...`
stands for any text. MUTATE_SHOW=1 shows why a page fails.
"""
import argparse, ast, copy, importlib, json, linecache, os, random, re, shutil, signal, sys, tempfile, threading, time, traceback, types
from contextlib import suppress
from pathlib import Path
os.environ.update(MPLBACKEND='agg')
import hypothesis, pytest, torch
import project

# Pages, by their numbers, and the tests that concern them; only what is fast of them is run
TESTS = {'12': 'front_door', '0|10|12|18|2[5-7]': 'bad_input properties', '11|1[3-6]': 'bad_input sets prepare folders', '2[0-5]|28|29': 'bad_input learning',
         '22|24|3[0-2]': 'bad_input seams', '33|35': 'bad_input roads', '3[1-3]': 'measures',
         '36': 'bad_input', '37': 'bad_input diffusers',
         '60': 'bad_input beyond_gaussians', '61': 'bad_input beyond_owed', '62': 'bad_input beyond_rules', '6[34]': 'bad_input beyond_inside',
         '66': 'bad_input beyond_mends', '67': 'bad_input beyond_variants', '68': 'bad_input beyond_one_pass'}


# What a mutant is

SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
         ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And}
COMPARISONS = {ast.Lt: (ast.Gt, ast.LtE), ast.Gt: (ast.Lt, ast.GtE), ast.LtE: (ast.GtE, ast.Lt),
               ast.GtE: (ast.LtE, ast.Gt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
               ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)}
# Names of one function that are taken for each other
NEIGHBOURS = ['logsnr logsnr_next', 'logsnr logsnr_prev', 'logsnr_min logsnr_max', 'alpha sigma', 'alpha alpha_next',
              'sigma sigma_next', 'eps_cond eps_uncond', 'eps eps_hat', 'x_tilde eps_tilde', 'x x_prev', 'x eps', 'x z',
              'z eps', 'z score', 'c none', 'mean logvar', 'logvar logvar_max', 'means stds', 'a b', 'net ema',
              'first last', 'low high', 'curve_low curve_high', 'few many', 'curve_few curve_many', 'rank world', 'k m',
              'step steps', 'done steps', 'mean std', 'mu sigma', 'images labels', 'x c', 'z c', 'ours paper',
              'images reference', 'real fake', 'batch_size micro_batch', 'step seed', 'old new', 'forward backward',
              'size channels', 'ch_in ch_out', 'one both', 'h emb', 'net state', 'n size', 'seed n', 'p q', 'found wanted']
# Attributes, and words that are keys, taken for each other wherever they stand; functions likewise
PAIRS = ['net ema', 'mu sigma', 'min max', 'mean std', 'train eval', 'rank world', 'any all', 'floor ceil', 'fd is_mean',
         'precision recall', 'steps batch_size', 'w v', 'seed run', 'p_uncond w']
BUILTINS = ['min max', 'any all']
ONE_MORE = ('w', 'wt', 's', 'n', 'T', 'step', 'steps', 'seed', 'batch_size', 'size', 'n_classes', 'null')
COMPLEMENT, NEGATIVE, NOTHING = ('v', 'u', 'p_uncond'), ('w',), ('seed', 'step', 'rank')
ODD = ('exp', 'sigmoid', 'tan', 'atan', 'softmax', 'log_softmax')           # a minus before their argument matters
ONE, PASS = ast.Constant(1), ast.Pass()


def changed(node, **fields):
    new = copy.copy(node)
    vars(new).update(fields)
    return new


def minus(value):
    return ast.UnaryOp(ast.USub(), value)


def no(value):
    return ast.UnaryOp(ast.Not(), value)


def without(items, i):
    return [*items[:i], *items[i+1:]]


def swapped(items, i):
    return [*items[:i], items[i+1], items[i], *items[i+2:]]


def other(word, pairs):
    "The words that a word is paired with."
    return [b if word == a else a for a, b in map(str.split, pairs) if word in (a, b)]


def variants(node, names, flags):
    "Everything that one node may be changed into, as pairs: a node in it (mostly itself), and what stands in its place."
    match node:
        case ast.BinOp():
            if type(node.op) in SWAPS: yield node, changed(node, op=SWAPS[type(node.op)]())
            if isinstance(node.op, ast.BitOr): yield node, changed(node, left=node.right, right=node.left)
            if isinstance(node.op, (ast.Mod, ast.BitOr)): yield node, node.left
            if isinstance(node.left, ast.Constant) and node.left.value == 1: yield node, node.right
        case ast.BoolOp():
            yield node, changed(node, op=SWAPS[type(node.op)]())
            for value in node.values: yield value, ast.Constant(isinstance(node.op, ast.And))
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node, node.operand
        case ast.Compare():
            for i, op in enumerate(node.ops):
                for another in COMPARISONS.get(type(op), ()):
                    yield node, changed(node, ops=[*node.ops[:i], another(), *node.ops[i+1:]])
        case ast.Constant(value=bool()):
            yield node, ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield node, ast.Constant(node.value + (1 if isinstance(node.value, int) else .1))
            if node.value == 1: yield node, ast.Constant(0)
        case ast.Constant(value=str()):
            for word in other(node.value, PAIRS): yield node, ast.Constant(word)
        case ast.Name(ctx=ast.Load()):
            for name in other(node.id, NEIGHBOURS):
                if {name, node.id} <= names: yield node, ast.Name(name)
            if node.id not in names:
                for name in other(node.id, BUILTINS): yield node, ast.Name(name)
            if node.id in ONE_MORE: yield node, ast.BinOp(ONE, ast.Add(), node)
            if node.id in COMPLEMENT: yield node, ast.BinOp(ONE, ast.Sub(), node)
            if node.id in NEGATIVE: yield node, minus(node)
            if node.id in NOTHING: yield node, ast.Constant(0)
            if node.id in flags: yield node, no(node)
        case ast.Attribute(ctx=ast.Load()):
            for name in other(node.attr, PAIRS): yield node, changed(node, attr=name)
        case ast.Call():
            method = isinstance(node.func, ast.Attribute)
            if method and isinstance(node.func.value, ast.Name): method = node.func.value.id not in ('torch', 'math', 'F', 'np')
            if method: yield node, node.func.value
            elif node.args and not isinstance(node.args[0], ast.Starred): yield node, node.args[0]
            if method and node.func.attr in ODD: yield node, changed(node, func=changed(node.func, value=minus(node.func.value)))
            for i in range(len(node.args)-1): yield node, changed(node, args=swapped(node.args, i))
            for i in range(len(node.keywords)): yield node, changed(node, keywords=without(node.keywords, i))
            for k, l in zip(node.keywords, node.keywords[1:]):
                if k.arg and l.arg: yield from exchanged(node, k, l)
        case ast.Dict():
            for i in range(len(node.keys)): yield node, changed(node, keys=without(node.keys, i), values=without(node.values, i))
        case ast.Tuple(elts=[_, _]):
            yield node, changed(node, elts=swapped(node.elts, 0))
        case ast.IfExp():
            yield node, node.body
            yield node, node.orelse
        case ast.comprehension():
            for test in node.ifs: yield test, ast.Constant(True)
        case ast.Return(value=ast.BinOp() | ast.Call()):
            yield node.value, minus(node.value)
        case ast.Return(value=ast.Tuple(elts=elts)):
            for value in elts:
                if not isinstance(value, ast.Starred) and getattr(value, 'value', True): yield value, minus(value)
        case ast.If():
            yield node, PASS
            if isinstance(node.test, (ast.Name, ast.Attribute, ast.Call)): yield node.test, no(node.test)
        case ast.Assign(targets=[ast.Subscript() | ast.Attribute() | ast.Tuple(elts=[ast.Subscript(), *_])]):
            yield node, PASS
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Delete() | ast.Break() | ast.Continue():
            yield node, PASS
        case ast.With():
            for i in range(len(node.items)):
                rest = without(node.items, i)
                yield node, changed(node, items=rest) if rest else ast.If(ast.Constant(True), node.body, [])
        case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
            for i in range(len(kinds)): yield node.type, changed(node.type, elts=without(kinds, i))
        case ast.ExceptHandler(type=ast.expr()):
            yield node.type, ast.Tuple([])
        case ast.FunctionDef():
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call): yield decorator, ast.parse('lambda f: f', mode='eval').body


def exchanged(call, k, l):
    "The values of two keywords exchanged, where they differ in more than their names."
    if ast.unparse(k.value) == ast.unparse(l.value): return
    new = {k: changed(k, value=l.value), l: changed(l, value=k.value)}
    yield call, changed(call, keywords=[new.get(other, other) for other in call.keywords])


def walk(node):
    "The nodes that are computed with: no annotation, no message of an error, no kinds of errors, no text."
    yield node
    for field, value in ast.iter_fields(node):
        if field in ('annotation', 'returns') or field == 'type' and isinstance(node, ast.ExceptHandler): continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.Raise, ast.JoinedStr)): yield from walk(child)


def parts(tree):
    "What a cell defines: name and node; of a class, every method by itself."
    for node in tree.body:
        match node:
            case ast.FunctionDef():
                yield node.name, node
            case ast.ClassDef():
                for decorator in node.decorator_list: yield node.name, decorator
                for inner in node.body:
                    yield f'{node.name}.{inner.name}' if isinstance(inner, ast.FunctionDef) else node.name, inner
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node


def edited(source, node, new):
    "A cell's text with something else in the place of a node; the rest stays as it is, words about parameters too."
    lines = source.encode().splitlines(keepends=True)                       # ast counts bytes
    start = sum(map(len, lines[:node.lineno-1])) + node.col_offset
    end = sum(map(len, lines[:node.end_lineno-1])) + node.end_col_offset
    before, after = source.encode()[:start].decode(), source.encode()[end:].decode()
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(new)))
    slices = any(isinstance(n, ast.Slice) for n in getattr(new, 'elts', ()))
    if slices: text = ', '.join(map(ast.unparse, new.elts))
    elif isinstance(node, ast.expr): text = f'({text})'
    if isinstance(node, ast.If) and source.encode()[start:end].startswith(b'elif'): text = 'elif False:\n    pass'
    return before + text.replace('\n', '\n' + ' '*node.col_offset) + after


def difference(old, new):
    "The lines that differ in two texts, each side in one."
    a, b = old.split('\n'), new.split('\n')
    while a and b and a[0] == b[0]: del a[0], b[0]
    while a and b and a[-1] == b[-1]: del a[-1], b[-1]
    return tuple(' '.join(line.strip() for line in side) for side in (a, b))


def shown(old, new):
    "The two lines for a report; in long ones `...` for what they share far from where they differ."
    if max(len(old), len(new)) <= 120: return old, new
    head = len(os.path.commonprefix([old, new]))
    tail = min(len(os.path.commonprefix([old[::-1], new[::-1]])), min(len(old), len(new)) - head)
    start, rest = max(head-40, 0), max(tail-40, 0)
    return tuple('...'*(start > 0) + line[start:len(line)-rest] + '...'*(rest > 0) for line in (old, new))


def mutants(source):
    "Every mutant of a cell: the function, the line before, the line after, the cell."
    tree = ast.parse(source)
    plain = ast.unparse(tree)
    seen = {plain}
    unordered = {id(t) for n in ast.walk(tree) for t in (                   # where the order of a pair means nothing
        n.comparators if isinstance(n, ast.Compare) and isinstance(n.ops[0], (ast.In, ast.NotIn)) else
        n.args[1:] if isinstance(n, ast.Call) and ast.unparse(n.func) == 'isinstance' else ())}
    for name, part in parts(tree):
        given = [n for n in ast.walk(part) if isinstance(n, ast.arguments)]
        flags = {a.arg for g in given for a in (*g.args, *g.kwonlyargs) if a.annotation and ast.unparse(a.annotation) == 'bool'}
        names = {n.arg for n in ast.walk(part) if isinstance(n, ast.arg)}
        names |= {n.id for n in ast.walk(part) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for node in walk(part):
            if id(node) in unordered: continue
            for old, new in variants(node, names, flags):
                text = edited(source, old, new)
                became = ast.unparse(ast.parse(text))
                if became in seen: continue
                seen.add(became)
                yield name, *difference(plain, became), text


def drawn(found, n):
    "So many mutants, some of every function, always the same."
    by_function = {}
    for mutant in found: by_function.setdefault(mutant[0], []).append(mutant)
    for name, some in by_function.items(): random.Random(name).shuffle(some)
    turns = [(turn, i, mutant) for i, some in enumerate(by_function.values()) for turn, mutant in enumerate(some)]
    first = sorted(turns, key=lambda t: t[:2])[:max(n, len(by_function))]
    return [mutant for _, _, mutant in sorted(first, key=lambda t: (t[1], t[0]))]


def listed():
    "What equivalent.txt says: (page, line before, line after, why)."
    text = (project.root/'tests/equivalent.txt').read_text(encoding='utf-8')
    return re.findall(r'^(\w+), ([\w.]+):\n +- (.*)\n +\+ (.*)\n +the same: (.*)', text, re.M)


def reason(equivalent, page, function, old, new):
    "Why a mutant is no mistake, if it is listed."
    def like(text, pattern): return re.fullmatch('.*'.join(map(re.escape, pattern.split('...'))), text)
    return next((why for p, f, a, b, why in equivalent if (p, f) == (page, function) and like(old, a) and like(new, b)), None)


# What becomes of one

def exported(source):
    return re.match(r'#\|\s*export', source)


def skipped(source):
    return re.search(r'nbdev_export|^#\|\s*(code-fold|eval: false|slow|default_exp)|^%', source, re.M)


def install(place, name, cells):
    "Write the module that the cells export into the copy of the package."
    package = place/project.package.name
    for old in (package/'__pycache__').glob(f'{name}.*'): old.unlink()      # two versions may have one time and one size
    (package/f'{name}.py').write_text('\n\n'.join(filter(exported, cells)), encoding='utf-8')


def run_page(cells):
    "Run a page, as a notebook would."
    page = sys.modules['__main__'] = types.ModuleType('__main__')
    for i, source in enumerate(cells):
        if skipped(source): continue
        name = f'<cell {i}>'
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name    # some read their own source
        exec(compile(source, name, 'exec'), vars(page))


class Reached:
    "A plugin of pytest that notes which functions of a module each test calls, its fixtures too; `*` if it starts a process."
    def __init__(self, module, path):
        self.module, self.path, self.now, self.fixtures, self.tests = str(module), path, set(), {}, {}

    def trace(self, frame, event, arg):
        code = frame.f_code
        if code.co_filename == self.module: self.now.add(code.co_qualname)
        if code.co_qualname == 'Popen.__init__': self.now.add('*')

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self):
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        outer, self.now = self.now, set()
        try: return (yield)
        finally:
            self.fixtures.setdefault(fixturedef.argname, set()).update(self.now)
            self.now |= outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.tests.setdefault(None, self.now)                               # what is called while tests are collected, all depend on
        self.now = set()
        result = yield
        self.tests[item.nodeid] = self.now.union(self.tests[None], *(self.fixtures.get(name, ()) for name in item.fixturenames))
        return result

    def pytest_sessionfinish(self):
        sys.settrace(None)
        self.path.write_text(json.dumps([[test, sorted(names)] for test, names in self.tests.items() if test]))


class Only:
    "A plugin of pytest that leaves only some tests."
    def __init__(self, tests): self.left = {*tests}
    def pytest_collection_modifyitems(self, items): items[:] = [item for item in items if item.nodeid in self.left]


def concerned(reached, function, methods):
    "The tests to run: those that call a function; all of them where what has changed is no function."
    def calls(names): return any(n in (function, '*') or n.startswith(f'{function}.') for n in names)
    return [test for test, names in reached if function not in methods or calls(names)]


def live(place, name, cells, tests, plugin):
    "What a process of its own does: run everything until something fails, and end with 0 if nothing does."
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0,) if os.environ.get('MUTATE_SHOW') else (0, 1, 2): os.dup2(null, stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        sys.argv = [name]
        sys.path.insert(0, str(place))
        os.environ.update(PYTHONPATH=f'{place}:{project.root/"tests"}', TMPDIR=str(place/'tmp'))
        tempfile.tempdir = None
        if cells:
            os.chdir(project.root/'nbs')
            run_page(cells)
        os.chdir(project.root)
        options = ['-x', '-q', '-n', '0', '-p', 'no:cacheprovider', '-o', f'pythonpath={place}', '-m', 'not slow']
        os._exit(int(pytest.main([*options, *tests], plugins=[plugin])) if tests else 0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(pid, limit):
    "What became of a process: 'survived', 'caught' or 'slow'; None while it runs."
    late = time.monotonic() > limit
    if late: os.killpg(pid, signal.SIGKILL)
    done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
    if not done: return None
    with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)       # whatever it started
    return 'slow' if late else 'caught' if status else 'survived'


class Laboratory:
    "Runs mutants of a module, several at once, each in a copy of the package that it has for itself."
    def __init__(self, directory, name, processes):
        self.name, self.reached = name, Path(directory)/'reached.json'
        self.free = [Path(directory)/str(i) for i in range(processes)]
        for place in self.free:
            shutil.copytree(project.package, place/project.package.name, ignore=shutil.ignore_patterns('__pycache__'))

    def start(self, cells, page, tests, only, seconds):
        place = self.free.pop()
        shutil.rmtree(place/'tmp', ignore_errors=True)
        (place/'tmp').mkdir()
        install(place, self.name, cells)
        sys.stdout.flush()
        pid = os.fork()
        plugin = Reached(place/project.package.name/f'{self.name}.py', self.reached) if only is None else Only(only)
        files = tests if only is None else [*dict.fromkeys(t.partition('::')[0] for t in only)]
        if not pid: live(place, self.name, cells if page else [], files, plugin)
        with suppress(OSError): os.setpgid(pid, pid)
        return pid, place, time.monotonic() + seconds

    def run(self, todo, seconds, tests=(), page=True):
        "What becomes of each of several pages (lists of cells, tests), as it is known: its number, its fate."
        left, running = [*enumerate(todo)], {}
        while left or running:
            while left and self.free:
                i, (cells, only) = left.pop(0)
                running[i] = self.start(cells, page, tests, only, seconds)
            time.sleep(.02)
            for i, (pid, place, limit) in [*running.items()]:
                fate = ended(pid, limit)
                if fate:
                    self.free.append(place)
                    del running[i]
                    yield i, fate

    def well(self, cells, tests=(), page=True):
        "Whether all passes as it is."
        return [*self.run([(cells, None)], 600, tests, page)] == [(0, 'survived')]


def load_others(cells):
    "Import once, for all the processes, what the cells and the package take from elsewhere; of the package, nothing."
    sources = [*cells, *(path.read_text(encoding='utf-8') for path in project.package.glob('*.py'))]
    for node in (node for source in sources if not skipped(source) for node in ast.walk(ast.parse(source))):
        found = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else \
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in found:
            if name.split('.')[0] not in (project.package.name, 'nbdev'):
                with suppress(ImportError): importlib.import_module(name)


def tests_of(page):
    "The files of tests that concern a page."
    names = [name for numbers, names in TESTS.items() if re.match(numbers, page) for name in names.split()]
    paths = [f'tests/test_{name}.py' for name in dict.fromkeys(names)]
    return [path for path in paths if (project.root/path).exists()]


def examined(page, cells, name, wanted, sample, processes):
    "Every mutant of a page, (function, line before, line after), and its fate."
    with tempfile.TemporaryDirectory() as directory:
        laboratory = Laboratory(directory, name, processes)
        began = time.monotonic()
        if not laboratory.well(cells): sys.exit(f'{page} fails as it is')
        reached, functions = [], set()
        for t in tests_of(page):
            if laboratory.well(cells, [t], page=False): reached += json.loads(laboratory.reached.read_text())
            else: print(f'{page}: {t} fails as it is, and is left out', flush=True)
        seconds = 30 + 4*(time.monotonic() - began)
        for source in filter(exported, cells): functions |= {f for f, part in parts(ast.parse(source)) if isinstance(part, ast.FunctionDef)}
        found = [(function, old, new, ([*cells[:i], '#| export\n' + text, *cells[i+1:]], concerned(reached, function, functions)))
                 for i, source in enumerate(cells) if exported(source) for function, old, new, text in mutants(source)]
        found = [m for m in found if wanted(m[0])]
        if sample: found = drawn(found, sample)
        for i, fate in laboratory.run([m[-1] for m in found], seconds): yield found[i][:3], fate


def report(page, equivalent, function, old, new):
    "Print what nothing caught; whether it is listed."
    why, (was, became) = reason(equivalent, page, function, old, new), shown(old, new)
    print(f'{page}, {function}:\n    - {was}\n    + {became}' + (f'\n    the same: {why}' if why else ''), flush=True)
    return why is not None


def main(pages, sample, processes):
    hypothesis.settings.register_profile('once', database=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
    hypothesis.settings.load_profile('once')                                # to search for the simplest failure takes long
    torch.set_num_threads(1)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)                            # a page asks whether its parent lives, and a mutant of it does worse
    equivalent, scores = listed(), []
    for path, notebook in project.notebooks().items():
        cells, name, page = [source for source, _ in project.code_cells(notebook)], project.module_of(notebook), path.stem
        if not any(map(exported, cells)) or pages and not any(p.partition('.')[0] == page for p in pages): continue
        began = time.monotonic()
        load_others(cells)
        def wanted(function): return not pages or page in pages or f'{page}.{function}' in pages
        fates, same = [], 0
        for (function, old, new), fate in examined(page, cells, name, wanted, sample, processes):
            fates.append(fate)
            if fate == 'survived': same += report(page, equivalent, function, old, new)
        lived = fates.count('survived')
        scores.append((len(fates)-lived, len(fates), fates.count('slow'), lived-same))
        print('{}: caught {} of {} ({} by the time they took); survivors that are not listed: {}; {:.0f} s'.format(
            page, *scores[-1], time.monotonic()-began), flush=True)
    print('in all: caught {} of {} ({} by the time they took); survivors that are not listed as equivalent: {}'.format(
        *map(sum, zip(*scores))))
    sys.exit(sum(bad for *_, bad in scores) > 0)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('pages', nargs='*', metavar='NN_name')
    parser.add_argument('--sample', type=int, help='so many mutants of each page; all unless given')
    parser.add_argument('--processes', type=int, default=2)
    main(**vars(parser.parse_args()))
