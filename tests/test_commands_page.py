"The page of the commands (56): its tables against the signatures and against `--help`, its lines typed once more."
import os, re, shlex, signal, subprocess, sys, time
from fnmatch import fnmatch
from html.parser import HTMLParser
from importlib import import_module
from inspect import signature
from pathlib import Path
import pytest
from fastcore.docments import docments
import project, warm
from test_map import section
from cfg_repro.console import arguments

PAGE = next(nb for path, nb in project.notebooks().items() if path.stem == '56_commands')
COMMANDS = {name: getattr(import_module(place.split(':')[0]), name) for name, place in warm.entries().items()}
each = pytest.mark.parametrize('name', COMMANDS)
environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | {'COLUMNS': '80', 'OMP_NUM_THREADS': '1'}
KINDS = {str: 'str', int: 'int', float: 'float', bool: '', list[str]: 'str [str ...]', tuple[int, ...]: 'int,...',
         tuple[float, ...]: 'float,...', tuple[str, ...]: 'str,...', float | tuple[float, ...]: 'float,...'}


class Rows(HTMLParser):
    "The cells of a table, as a reader sees them."
    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        assert tag in ('table', 'thead', 'tbody', 'tr', 'th', 'td', 'code', 'wbr') and (tag == 'table' or not attributes)
        if tag == 'tr':
            self.rows.append([])
        if tag in ('th', 'td'):
            self.rows[-1].append('')

    def handle_data(self, text):
        if text != '\n':
            self.rows[-1][-1] += text


def outputs(title=None):
    "What the cells of a section show, the whole page's without a title: dictionaries of kind and text."
    found = [o for c in section(PAGE, title) if c['cell_type'] == 'code' for o in c['outputs']]
    return [{kind: ''.join(text) for kind, text in o.get('data', {'stream': o.get('text')}).items()} for o in found]


def tables(title, *head):
    "The tables of a section that have this head, as (rows, the same for a terminal)."
    found = [(Rows(o['text/html']).rows, o['text/plain']) for o in outputs(title) if 'text/html' in o]
    return [(rows[1:], text) for rows, text in found if rows[0] == list(head)]


def options(name):
    ((rows, text),) = tables(name, 'option', 'value', 'default', 'meaning')
    return rows, text


def lines(title=None):
    "The lines that stand in a section to be typed."
    return [re.fullmatch(r'```bash\n(.*)\n```', o['text/markdown'], re.S)[1] for o in outputs(title) if 'text/markdown' in o]


def words(line):
    return shlex.split(line.replace('\\\n', ''))


ROAD = [line for name in COMMANDS for line in lines(name)]


def bare(text):
    return re.sub(r'\s', '', text)


@each
def test_every_option_has_its_row(name):
    "By the function's own signature and comments: each parameter in its place, its kind, its words."
    parameters, comments = signature(COMMANDS[name]).parameters, docments(COMMANDS[name])
    expected = [[key if p.default is p.empty else f'--{key}', '' if p.default is p.empty and p.annotation is str else KINDS[p.annotation], comments[key]]
                for key, p in parameters.items()]
    assert [[flag, kind, about] for flag, kind, _, about in options(name)[0]] == expected


@each
def test_every_default_is_what_holds(name):
    "Typed as it stands in its row it gives what holds where nothing is typed; no default stands there only where there is none to type."
    f = COMMANDS[name]
    placed = ['x' for p in signature(f).parameters.values() if p.default is p.empty]
    holds = arguments(f, placed)
    for flag, _, default, _ in options(name)[0]:
        key = flag.removeprefix('--')
        if default:
            of_words = arguments(f, [*placed, flag, default])[key]
            given = holds[key]
            assert of_words == (given if isinstance(of_words, tuple) == isinstance(given, tuple) else (given,)), flag
        else:
            assert flag == key or holds[key] in (None, (), '') or holds[key] is False, flag


@each
def test_a_terminal_has_the_same(name):
    "The table as text, cut where its head says that columns begin, holds the same cells."
    rows, text = options(name)
    head, *body = text.splitlines()
    starts = [head.index(title) for title in ('option', 'value', 'default', 'meaning')]
    cut = [[line[a:b] for a, b in zip(starts, [*starts[1:], None])] for line in body]
    found = []
    for cells in cut:
        if cells[0].strip():
            found.append(cells)
        else:
            found[-1] = [a + b for a, b in zip(found[-1], cells)]
    assert [list(map(bare, cells)) for cells in found] == [list(map(bare, cells)) for cells in rows]


@pytest.mark.slow
@each
def test_help_says_the_same(name):
    "The table, written as --help writes it, is all that --help says below its usage, letter for letter but for line ends."
    said = subprocess.run([str(warm.bin()/name), '--help'], env=environment, capture_output=True, text=True).stdout
    assert bare(COMMANDS[name].__doc__) in bare(said)
    written = [f'{flag} {about}' if flag[0] != '-' else f'{flag} {kind} {about}' + f' (default: {default})'*bool(default)
               for flag, kind, default, about in options(name)[0]]
    placed = [text for text in written if text[0] != '-']
    rest = 'options: -h, --help show this help message and exit' + ''.join(written[len(placed):])
    assert bare(said).endswith(bare('positional arguments:'*bool(placed) + ''.join(placed) + rest))


def test_all_that_are_installed():
    "The first table has every command, with what its function says of itself."
    ((rows, _),) = tables(None, 'command', 'what it does')
    assert sorted(rows) == sorted([name, f.__doc__] for name, f in COMMANDS.items())


@each
def test_lines_parse(name):
    "In its section stand lines of this command, and the command takes them."
    assert lines(name)
    for line in lines(name):
        first, *rest = words(line)
        assert first == name and arguments(COMMANDS[name], rest)


def test_the_road_in_one_piece():
    "At the end stands what stands in the sections, each line once, in order."
    (whole,) = lines('In short')
    whole = whole.replace('\\\n', '').split('\n')
    assert [line.split()[0] for line in whole] == ['cfg_prepare', 'cfg_train', 'cfg_sample', 'cfg_evaluate', 'cfg_sweep', 'cfg_export']
    by_name = {words(line)[0]: words(line) for line in ROAD}
    assert all(words(line) == by_name[words(line)[0]] for line in whole)


def test_what_is_shown():
    "Nothing is wider than a terminal, and no place of the machine that ran it is in sight."
    for o in outputs():
        for kind in ('stream', 'text/plain', 'text/markdown'):
            assert max(map(len, o.get(kind, '').splitlines()), default=0) <= 80, o[kind]
        for text in o.values():
            assert not re.search(r'''(^|[\s'"(=:>])[/~]\w''', text), text


def tree(title):
    "The files of a section, by their path with its stars."
    paths, above = [], []
    for ((rows, _)) in tables(title, 'file', 'what it is'):
        for name, meaning in rows:
            depth = name.count('\u2003')
            above = [*above[:depth], name.strip()]
            paths.append((''.join(above), meaning))
    return paths


@each
def test_files_have_words(name):
    found = tree(name)
    assert found and all(meaning for path, meaning in found if not path.endswith('runs/'))


def statuses():
    ((rows, _),) = tables('How it ended', 'status', 'what it means', 'for instance')
    return {int(code): line for code, _, line in rows}


@pytest.mark.slow
def test_typed_again(tmp_path):
    """All lines but the main job's, in a folder of their own: the statuses of the last table, the files of the others and no
    others; and after the same line once more what is finished is as it was."""
    def run(line):
        command, *rest = words(line)
        done = subprocess.run([str(warm.bin()/command), *rest], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert 'Traceback' not in done.stderr
        return done.returncode
    def finished():
        return {p: p.stat().st_mtime_ns for k in ('shard-*', 'step-*/*', 'cells/*', '*.safetensors', 'learnt/*') for p in tmp_path.rglob(k)}
    expected = []
    for name in (n for n in ('cfg_prepare', 'cfg_train', 'cfg_sample', 'cfg_evaluate', 'cfg_sweep', 'cfg_export')):
        line = lines(name)[-1]
        assert run(line) == 0
        before = finished()
        assert before and run(line) == 0 and finished() == before, line
        expected += [path for path, _ in tree(name)]
        there = {p.relative_to(tmp_path).as_posix() + '/'*p.is_dir() for p in tmp_path.rglob('*')}
        assert not [path for path in there if not any(fnmatch(path, e) and path.count('/') == e.count('/') for e in expected)], name
        assert not [e for e in expected if not any(fnmatch(path, e) for path in there)], name
    found = statuses()
    assert set(found) == {0, 1, 2, 130} and words(found[0]) == words(ROAD[list(COMMANDS).index('cfg_prepare')])
    assert {code: run(found[code]) for code in (0, 1, 2)} == {0: 0, 1: 1, 2: 2}


@pytest.mark.slow
def test_stopped(tmp_path):
    "The line that the page stops, stopped in another folder: its status; and the same line then ends well."
    line = statuses()[130]
    assert line in lines('cfg_train') and words(lines('cfg_prepare')[0])[0] == 'cfg_prepare'
    def restored(): signal.signal(signal.SIGINT, signal.default_int_handler)      # a parent in the background may ignore it
    def start(line): return subprocess.Popen([str(Path(sys.executable).parent/words(line)[0]), *words(line)[1:]], cwd=tmp_path, env=environment,
                                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=restored)
    assert start(lines('cfg_prepare')[0]).wait(600) == 0
    with start(line) as running:
        while not list(tmp_path.glob('runs/*/log.jsonl')) and running.poll() is None: time.sleep(.02)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    assert start(line).wait(600) == 0
