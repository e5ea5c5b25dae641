"""What a newcomer meets: an environment made by the README's first line, word for word, and every line of the README started in it.

Twice: with the newest versions that the bounds allow, which is what pip takes, and with the oldest. The environment of
these tests, which holds what development needs, says nothing about either.
"""
import os, re, shlex, shutil, signal, subprocess, tarfile, time
from io import BytesIO
from pathlib import Path
import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image
import project, recipes
from cfg_repro.data import draw_glyph

pytestmark = pytest.mark.slow
readme = (project.root/'README.md').read_text(encoding='utf-8')
blocks = re.findall(r'^```(bash|python)\n(.*?)\n```$', readme, re.M | re.S)
first_line = next(text for kind, text in blocks if kind == 'bash' and text.startswith('python3'))   # in a clone
setup, _, main_job = first_line.rpartition(' && ')
commands = [line.split('=')[0] for line in project.settings['console_scripts'].split()]
# What is small enough for a test, in the place of what the README prints; everything else is as it stands there.
SMALL = {'imagenet64': 'tiny', '--size 64': '--size 16', '--n 50000': '--n 70', '--processes 8': '--processes 2', ' --compile': '',
         '--minutes 60': '--steps 2 --batch_size 8', '--n 100': '--n 4 --T 3',
         'cfg_evaluate runs/p0.1/samples --reference data': 'cfg_evaluate runs/p0.1/samples --reference data --classifier own.safetensors --fit_steps 20'}


def lower_bounds():
    "Every requirement at the oldest version that its bounds allow."
    return [re.sub(r'>=([^,]+).*', r'==\1', word) for word in project.settings['requirements'].split()]


@pytest.fixture(scope='module', params=['newest', 'oldest'])
def newcomer(request, tmp_path_factory):
    "A clone in which the first line has been typed, up to the command at its end: a function that runs lines of bash there."
    folder = tmp_path_factory.mktemp(request.param)
    for path in project.files():
        (folder/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project.root/path, folder/path, follow_symlinks=False)
    environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'VIRTUAL_ENV', 'PYTHONPATH', 'IN_TEST')} | {'COLUMNS': '80', 'OMP_NUM_THREADS': '1'}
    environment.pop('PYTHONDONTWRITEBYTECODE', None)
    of_pip = {'PIP_NO_COMPILE': '0'}                    # as pip has it: do not; Python compiles what it meets, a tenth of it
    if request.param == 'oldest':
        (folder/'oldest.txt').write_text('\n'.join(lower_bounds()))
        of_pip['PIP_CONSTRAINT'] = str(folder/'oldest.txt')
    done = subprocess.run(['bash', '-c', setup], cwd=folder, env=environment | of_pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment['PATH'] = f"{folder/'.venv/bin'}:{environment['PATH']}"
    (folder/'elsewhere').mkdir()                        # away from the checkout: what runs is what was installed

    def run(line, code=0):
        done = subprocess.run(['bash', '-c', line], cwd=folder/'elsewhere', env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == code and 'Traceback' not in done.stderr, f'{line}\n{done.stdout}\n{done.stderr}'
        return done.stdout if code == 0 else done.stderr

    run.folder, run.environment, run.age = folder/'elsewhere', environment, request.param
    yield run
    shutil.rmtree(folder)                               # gigabytes


def test_versions_are_what_the_bounds_allow(newcomer):
    "The oldest environment holds the oldest versions, and pip finds nothing wrong in either."
    newcomer('pip check')
    if newcomer.age == 'oldest':
        frozen = [line.split('==') for line in newcomer('pip freeze').splitlines() if '==' in line]
        there = {canonicalize_name(name): Version(version) for name, version in frozen}
        for word in lower_bounds():
            name, version = word.split('==')
            assert there[canonicalize_name(name)] == Version(version), word


@pytest.mark.parametrize('command', commands)
def test_help(newcomer, command):
    "Each command starts, in 80 columns, with the flags that its function has, and a word for each."
    text = newcomer(f'{command} --help')
    assert text.startswith(f'usage: {command}') and max(map(len, text.splitlines())) <= 80
    module = dict(line.split('=') for line in project.settings['console_scripts'].split())[command].split(':')[0]
    names = newcomer(f'''python -c "
import inspect, {module} as module
print(*inspect.signature(module.{command}).parameters)"''').split()
    for name in names:
        (words,) = re.findall(rf'^  (?:--)?{name}(?: .*?)?(?:\s\s+|\n\s+)(\S.*)', text, re.M)
        assert len(words) > 3


def test_no_abbreviation_and_a_suggestion(newcomer):
    "`--w` is not `--workers`; a name from another fastcore's habits is refused with the right one."
    assert newcomer('cfg_digits --quick --w 2', code=2) == 'cfg_digits: there is no --w; did you mean --workers?\n'
    assert newcomer('cfg_train digits --p-uncond 0.5', code=2) == 'cfg_train: there is no --p-uncond; did you mean --p_uncond?\n'
    assert not list(newcomer.folder.iterdir())


def test_the_main_job(newcomer):
    "It starts as the first line starts it, says something at once, and Ctrl-C is answered; the small one runs to its end."
    def restored(): signal.signal(signal.SIGINT, signal.default_int_handler)      # a parent in the background may ignore it
    running = subprocess.Popen(shlex.split(main_job), cwd=newcomer.folder, env=newcomer.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, preexec_fn=restored, start_new_session=True)
    while 'networks' not in (line := running.stderr.readline()): assert line, 'it said nothing'
    while not list(newcomer.folder.glob('runs/digits/parts/runs/*')) and running.poll() is None: time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    began = time.time()
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 130 and said.splitlines()[-1] == 'cfg_digits: stopped; the same line goes on from here' and 'Traceback' not in said
    assert time.time()-began < 10
    text = newcomer('cfg_digits --quick')
    assert 'Table 1' in text and (newcomer.folder/'runs/digits-quick/table1.csv').exists()


def test_the_python_of_the_readme(newcomer):
    "All of it in one go prints what stands below it."
    code = '\n'.join(text for kind, text in blocks if kind == 'python')
    (newcomer.folder/'readme.py').write_text(code)
    printed = newcomer('python readme.py')
    shown = re.search(r'^```text\n(.*?)\n```$', readme, re.M | re.S)[1]
    numbers = r'\d+\.\d+'
    assert re.sub(numbers, '', printed.strip()) == re.sub(numbers, '', shown)
    for a, b in zip(re.findall(numbers, printed), re.findall(numbers, shown), strict=True): assert abs(float(a)-float(b)) < 0.02


def photographs(path, classes=4, each=40):
    "A tar of class tars, as ImageNet's."
    with tarfile.open(path, 'w') as outer:
        for k in range(classes):
            inside = BytesIO()
            with tarfile.open(fileobj=inside, mode='w') as inner:
                for i in range(each):
                    data = BytesIO()
                    Image.fromarray(draw_glyph(26*i+k, 40)).save(data, 'JPEG')
                    member = tarfile.TarInfo(f'{k}_{i}.JPEG')
                    member.size = data.tell()
                    inner.addfile(member, BytesIO(data.getvalue()))
            member = tarfile.TarInfo(f'n{k:08d}.tar')
            member.size = inside.tell()
            outer.addfile(member, BytesIO(inside.getvalue()))


def test_the_lines_of_the_readme(newcomer):
    "Every other line that begins with a command, as it stands there but for the sizes, in order."
    lines = [line for kind, text in blocks if kind == 'bash' for line in text.splitlines() if line.startswith('cfg_')]
    assert len(lines) >= 5 and {line.split()[0] for line in lines} == set(commands)-{'cfg_digits'}
    photographs(newcomer.folder/'ILSVRC2012_img_train.tar')
    for k, name in enumerate(('cats', 'dogs')):
        (newcomer.folder/'my_pictures'/name).mkdir(parents=True)
        for i in range(5): Image.fromarray(draw_glyph(26*i+k, 40)).save(newcomer.folder/'my_pictures'/name/f'{i}.png')
    for p in (0.2, 0.5):                                # the README trains one of the three that its last line names
        lines.insert(-1, f'cfg_train imagenet64 --data data --out runs/p{p} --p_uncond {p}')
    for line in lines:
        small = line
        for printed, ours in SMALL.items(): small = small.replace(printed, ours)
        assert newcomer(small).strip()
    for left in ('runs/p0.1/samples/evaluation.json', 'runs/auto/samples/samples.png', 'learnt/model.safetensors'): assert (newcomer.folder/left).exists(), left


def test_the_front_door(newcomer):
    "A name from the package itself, and its words; nothing heavy before it is asked for."
    code = 'import cfg_repro, sys; print("torch" in sys.modules); from cfg_repro import guided; print("Parameters" in guided.__doc__)'
    assert newcomer(f"python -c '{code}'").split() == ['False', 'True']


def shown(newcomer, title):
    "A recipe of the page prints what stands below it, but for the numbers."
    (newcomer.folder/'recipe.py').write_text(recipes.code(title))
    numbers = r'-?\d+\.\d+'
    assert re.sub(numbers, '', newcomer('python recipe.py')) == re.sub(numbers, '', recipes.printed(title))


@pytest.mark.parametrize('title', ['Your own network', 'An array'])
def test_a_recipe(newcomer, title):
    shown(newcomer, title)


def test_the_recipe_for_pictures(newcomer):
    "Its lines as they stand; the classifier learns for a moment only."
    for i in range(80):
        for place, letter in ((f'photographs/{"ab"[i%2]}', i%2), ('sampled', 2)):
            (newcomer.folder/place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_glyph(26*i+letter, 40)).save(newcomer.folder/place/f'{i}.png')
    few = ' --fit_steps 20 --splits 1 --groups 0'
    said = [newcomer(line + few*line.startswith('cfg_evaluate')) for line in recipes.commands()]
    assert re.match(r'80 images: FD \d+\.\d+, IS ', said[-1])


def test_the_recipe_for_diffusers(newcomer):
    "It comes last, for it adds diffusers to the environment: the newest, or the oldest, that development allows."
    (wanted,) = (word for word in project.settings['dev_requirements'].split() if word.startswith('diffusers'))
    if newcomer.age == 'oldest':
        wanted = re.sub(r'>=([^,]+).*', r'==\1', wanted)
    newcomer(f"pip install -q '{wanted}'")
    shown(newcomer, 'A model of diffusers')
