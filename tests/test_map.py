"""The map of the paper and of the slides (nbs/map.csv), walked: from each row to a heading, to a function that can be
imported, and to a check that calls it; the bibliography, and the citations that lead to it; the reading times."""
import ast, csv, importlib, re
from functools import cache
import pytest
import project, readme
from test_notebooks import checks, exported

PAGES = {path.stem: notebook for path, notebook in project.notebooks().items()}
with open(project.root/'nbs'/'map.csv', encoding='utf-8') as f:
    ROWS = list(csv.DictReader(f))

# What there is to be found, typed from the paper and from the slides.
NUMBERED = {'Eq. (1)','Eq. (2)','Eq. (3)','Eq. (4)','Eq. (5)','Eq. (6)', 'Algorithm 1','Algorithm 2', 'Table 1','Table 2',
            *(f'Figure {k}' for k in range(1, 9))}
SLIDES = [
    'Fidelity vs Diversity', 'Truncation-like effect on Diffusion', 'Drawbacks of Classifier Guidance',
    'Classifier-Free Guidance (CFG) Diffusion', 'Notation', 'Training Objective', 'Sampling Procedure', 'Classifier Guidance',
    'Simple Classifier Guidance Experiment', 'Classifier Guidance with unconditional model', 'Classifier-Free Guidance (CFG)',
    'Training Classifier-Free Guidance (CFG) diffusion model', 'Sampling from Classifier-Free Guidance (CFG) diffusion model',
    'Suggested score from Classifier-Free Guidance', 'Classifier-guided Effect', 'Experiment', 'Experiment Settings',
    'Varying Classifier-Free Guidance Strength', 'Varying Unconditional Training Probability', 'Varying Sampling Steps']


def headings(text):
    "The headings of a cell of words, as [(level, title)]; what is in code is none."
    return [(len(level), title) for level, title in re.findall(r'^(#{1,4}) (.*?) *$', re.sub(r'```.*?```', '', text, flags=re.S), re.M)]


def section(notebook, title):
    "The cells from a heading to the next one that is not below it, without title the whole page; None where it is not."
    if not title:
        return notebook['cells']
    found, level = [], None
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown':
            for depth, name in headings(''.join(cell['source'])):
                if level is None and name == title:
                    level, found = depth, []
                elif level is not None and depth <= level:
                    return found
        if level is not None:
            found.append(cell)
    return found if level is not None else None


@cache
def names(node):
    "The names that a piece of code calls or mentions."
    return {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Attribute))}


@cache
def parsed(source):
    return ast.parse(re.sub(r'^%.*', '', readme.directives(source)[1], flags=re.M))


def helpers(trees):
    "The functions that these pieces of code define for themselves, with the names in each."
    return {n.name: names(n) for tree in trees for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


def reaches(node, function, own):
    "Whether code names a function, or names a helper of its own that does, and so on."
    seen, todo = set(), names(node)
    while todo:
        seen |= todo
        todo = {name for helper in todo & own.keys() for name in own[helper]} - seen
    return function in seen


def checked_on_page(notebook, title, function):
    "Whether a section has a cell that checks something and calls the function."
    code = [''.join(c['source']) for c in notebook['cells'] if c['cell_type'] == 'code']
    own = helpers(parsed(source) for source in code if exported(source) is None)
    cells = [''.join(c['source']) for c in section(notebook, title) or () if c['cell_type'] == 'code']
    return any(checks(source) and reaches(parsed(source), function, own) for source in cells)


def checked_by_test(path, test, function):
    "Whether a test exists and calls the function."
    tree = parsed((project.root/path).read_text(encoding='utf-8'))
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == test]
    return bool(found) and test.startswith('test_') and reaches(found[0], function, helpers([tree]))


def imported(function):
    "What a row names, from its module."
    module, name = function.split('.')
    assert not name.startswith('_')
    return getattr(importlib.import_module(f'{project.package.name}.{module}'), name)


def faults(row):
    "What is wrong with a row of the map, in words."
    page, function, bad = PAGES.get(row['page']), row['function'].split('.')[-1], []
    if page is None:
        return [f"no page {row['page']}"]
    if section(page, row['heading']) is None:
        bad.append(f"no heading {row['heading']!r} on {row['page']}")
    try:
        imported(row['function'])
    except (ImportError, AttributeError, ValueError, AssertionError):
        bad.append(f"{row['function']} cannot be imported")
    where, _, what = row['check'].partition('::')
    if what:
        good = (project.root/where).exists() and checked_by_test(where, what, function)
    else:
        there, _, heading = (row['check'] or f"{row['page']}#{row['heading']}").partition('#')
        good = there in PAGES and checked_on_page(PAGES[there], heading, function)
    return bad if good else [*bad, f"no check of {function}: {row['check'] or 'here'}"]


@pytest.mark.parametrize('row', ROWS, ids=[f"{k}-{row['item']}" for k, row in enumerate(ROWS, 1)])
def test_each_row_leads_somewhere(row):
    assert not faults(row)


def test_the_walk_sees():
    "A row is refused for each thing that may be wrong with it."
    row = dict(page='07_guidance', heading='Eq. (6)', function='guidance.guide', check='')
    by_test = 'tests/test_properties.py::test_guide'
    assert faults(row) == faults(row | dict(check=by_test)) == faults(row | dict(check='07_guidance#Eq. (6)')) == []
    wrong = (dict(page='07_guide'), dict(heading='Eq. (7)'), dict(heading='Eq.'), dict(function='guidance.gide'), dict(function='guide.guide'),
             dict(function='guidance._unknown'), dict(heading='Not the gradient of any classifier'), dict(function='guidance.implicit_classifier_grad'),
             dict(check=by_test + 's'), dict(check='tests/no_test.py::test_guide'), dict(check='tests/test_properties.py::test_grid'),
             dict(check='07_guidance#Eq. (7)'), dict(check='01_schedule#Signal and noise'))
    for change in wrong:
        assert faults(row | change), change
    page = dict(cells=[dict(cell_type='markdown', source='# A\n\n## B'), dict(cell_type='code', source='def h():\n    return g()'),
                       dict(cell_type='code', source='#| exports\ndef g():\n    assert f()'), dict(cell_type='code', source='assert h()'),
                       dict(cell_type='markdown', source='## C'), dict(cell_type='code', source='assert k')])
    assert checked_on_page(page, 'B', 'h') and checked_on_page(page, 'B', 'g') and checked_on_page(page, 'A', 'k')
    assert not checked_on_page(page, 'B', 'f') and not checked_on_page(page, 'B', 'k') and not checked_on_page(page, 'C', 'g')


def test_everything_is_on_the_map():
    "Every numbered thing of the paper, and every title of the slides, has a row; nothing else has."
    items = {source: [row['item'] for row in ROWS if row['source'] == source] for source in ('paper', 'slides', 'beyond')}
    assert sum(map(len, items.values())) == len(ROWS)
    assert {item for item in items['paper'] if not item.startswith('Section ')} == NUMBERED
    assert list(dict.fromkeys(items['slides'])) == SLIDES
    assert len({tuple(row.values()) for row in ROWS}) == len(ROWS)


def test_numbered_equations_stand_where_the_map_says():
    "A number is on one page, once, in the section of its row."
    tags = {}
    for name, page in PAGES.items():
        for cell in page['cells']:
            for number in re.findall(r'\\tag\{(.*?)\}', ''.join(cell['source'])) if cell['cell_type'] == 'markdown' else ():
                tags.setdefault(f'Eq. ({number})', []).append((name, cell['id']))
    rows = {row['item']: row for row in ROWS if row['item'] in tags}
    assert rows.keys() == tags.keys() == {item for item in NUMBERED if item.startswith('Eq.')}
    for item, places in tags.items():
        row = rows[item]
        assert places == [(row['page'], cell['id']) for cell in section(PAGES[row['page']], row['heading']) if (row['page'], cell['id']) in places]
        assert len(places) == 1, item


# The bibliography.

BIBLIOGRAPHY = '53_bibliography'
ASIDE = r'```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|!?\[[^\]]*\]\([^)]*\)|^#{1,6} .*?$'        # code, formulas, links, headings


def prose(notebook):
    return '\n'.join(''.join(c['source']) for c in notebook['cells'] if c['cell_type'] == 'markdown')


def citations():
    "The links to the bibliography: [(page, key)]."
    found = [(name, key) for name, page in PAGES.items() for key in re.findall(rf'\]\({BIBLIOGRAPHY}\.ipynb#?(.*?)\)', prose(page)) if key]
    return found + [(BIBLIOGRAPHY, key) for key in re.findall(r'\]\(#(.*?)\)', prose(PAGES[BIBLIOGRAPHY]))]


def entries():
    return re.findall(r'<a id="(.*?)"></a>', prose(PAGES[BIBLIOGRAPHY]))


def unlinked(text):
    "Names with a year that are no link: 'Vincent, 2011', 'Ho et al. (2020)', 'Salimans & Ho 2022'."
    name = r'\b[A-Z][\w-]+(?: et al\.?| (?:and|&) [A-Z][\w-]+)?,? \(?(?:19|20)\d\d\b'
    return [found for found in re.findall(name, re.sub(ASIDE, ' ', text, flags=re.S | re.M)) if not re.match('(In|On|Of) ', found)]


def test_each_citation_link_has_an_entry():
    keys = entries()
    assert len(keys) == len(set(keys)) and citations()
    assert not [(page, key) for page, key in citations() if key not in keys]


def test_each_citation_is_a_link():
    "A name with a year leads to the bibliography, and nothing stands there that no page cites."
    assert not {name: found for name, page in PAGES.items() if name != BIBLIOGRAPHY and (found := unlinked(prose(page)))}
    assert not set(entries()) - {key for _, key in citations()}


def test_an_unlinked_citation_is_seen():
    for text in ('by (Vincent, 2011), so', 'Ho et al. (2020)', 'Salimans & Ho 2022', 'Nichol and Dhariwal (2021, *Improved*)', '*Kynkäänniemi et al. 2019*'):
        assert unlinked(text), text
    for text in ('[Vincent, 2011](a.ipynb#b)', '`Vincent, 2011`', '# Vincent, 2011', '$A 2011$', 'In 2021 they', 'steps of 2048 images'):
        assert not unlinked(text), text


def test_reading_times_are_those_of_the_pages(monkeypatch):
    "What is stored on the page of the path is what it counts now, but for five minutes a page."
    monkeypatch.chdir(project.root/'nbs')
    cells, page = {}, PAGES['50_path']
    for source, _ in project.code_cells(page):
        exec(source, cells)
    outputs = [''.join(o['data'].get('text/markdown', ())) for _, found in project.code_cells(page) for o in found if 'data' in o]
    stored = re.findall(r'^\| \[.*?\]\((\w+)\.ipynb\) \|.* \| (\d+) \|$', '\n'.join(outputs), re.M)
    assert [name for name, _ in stored] == cells['path']
    far = {name: (int(n), cells['minutes'](name)) for name, n in stored if abs(int(n) - cells['rounded'](cells['minutes'](name))) > 5}
    assert not far, f'run the page again: {far}'
