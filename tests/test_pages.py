"""The pages as nbdev hands them to Quarto, so without Quarto: what stands first, where links lead, what hangs in the air,
what they weigh, and colours that can be read by day and by night."""
import ast, json, re, warnings
from pathlib import Path
import pytest, yaml
from execnb.nbio import nb2dict, read_nb
from nbdev.processors import FilterDefaults
import project, readme
from test_questions import anchor

quarto = yaml.safe_load((project.root/'_quarto.yml').read_text(encoding='utf-8'))
paths = {path.stem: path for path in project.notebooks()}


def page(path):
    "The cells of a page after all of nbdev's processors; the first is its front matter, the second a comment."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        notebook = read_nb(path)
        FilterDefaults()(notebook)
    cells = nb2dict(notebook)['cells']
    return [dict(cell, source=''.join(cell['source'])) for cell in cells]


PAGES = {name: page(path) for name, path in paths.items()}
each = pytest.mark.parametrize('name', PAGES)


def front(name):
    return yaml.safe_load(PAGES[name][0]['source'].strip().strip('-'))


def prose(cell):
    "A cell's text without code and formulas."
    return re.sub(r'```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$', '', cell['source'], flags=re.S)


def texts(name):
    return [cell for cell in PAGES[name] if cell['cell_type'] == 'markdown']


@each
def test_title_and_description(name):
    "In the notebook they have a cell of their own: what else stands in it, nbdev loses."
    cell = ''.join(json.loads(paths[name].read_text(encoding='utf-8'))['cells'][0]['source'])
    title, described = re.fullmatch(r'# (.+)\n\n> (.+)', cell).groups()
    assert front(name)['title'] == title.replace('`', '') or front(name)['title'] == title
    assert front(name)['description'] == described
    assert len(described) <= 160


@each
def test_words_come_first(name):
    "Not imports, and not code."
    assert PAGES[name][2]['cell_type'] == 'markdown'
    assert not PAGES[name][2]['source'].startswith('#')


def ids(name):
    "Every anchor of a page: of headings, of names of functions, of helpers, of the bibliography."
    found = []
    for cell in texts(name):
        text = re.sub(r'```.*?```', '', cell['source'], flags=re.S)
        for title in re.findall(r'^#{2,4} (.+)$', text, re.M):
            own = re.search(r'\{#([^ }]+)', title)
            found.append(own[1] if own else anchor(title))
        found += [a or b for a, b in re.findall(r'<a id="(\w+)"|(?:\[\]|^::: )\{#([^}]+)\}', text, re.M)]
    return found


IDS = {name: ids(name) for name in PAGES}
ADDRESS = {re.sub(r'^\d\d_', '', name): name for name in PAGES}


@each
def test_each_anchor_is_there_once(name):
    assert sorted(IDS[name]) == sorted(set(IDS[name]))


@each
def test_links_lead_to_an_anchor(name):
    "Those of the text, and those that nbdev makes of names in backticks."
    dead = []
    for cell in texts(name):
        for target, there in re.findall(r'\]\((?:\./)?([\w.]*)#([^)\s]+)\)', re.sub(r'```.*?```', '', cell['source'], flags=re.S)):
            stem = Path(target).stem
            other = name if not target else stem if target.endswith('.ipynb') else ADDRESS.get(stem)
            if not other or there not in IDS[other]:
                dead.append(f'{target}#{there}')
    assert not dead


@each
def test_nothing_hangs_in_the_air(name):
    "A text that ends in a colon is followed by code or by what it prints; a heading by words or code."
    cells = PAGES[name][2:]
    hanging = []
    for cell, after in zip(cells, cells[1:] + [dict(cell_type='markdown', source='')]):
        if cell['cell_type'] != 'markdown' or 'WARNING' in cell['source'] or cell['source'].startswith(':::'):
            continue
        if cell['source'].rstrip().endswith(':') and after['cell_type'] == 'markdown' and '.api}' not in after['source'] and not after['source'].startswith(':::'):
            hanging.append(cell['source'][-60:])
        lines = [line for line in re.sub(r'```.*?```', 'code', cell['source'], flags=re.S).splitlines() if line.strip()]
        following = lines[1:] + [after['source'] if after['cell_type'] == 'markdown' else 'code']
        for line, next_line in zip(lines, following):
            if re.match(r'#{2,4} ', line) and '.api}' not in line and (not next_line or re.match(r'#{2,4} ', next_line) and '.api}' not in next_line):
                hanging.append(line)
    assert not hanging


@each
def test_imports_stand_alone(name):
    "A cell imports, or it does something; what is there to be copied does both."
    mixed = []
    for cell in PAGES[name]:
        if cell['cell_type'] == 'code' and not cell['source'].startswith('#| eval: false'):
            body = ast.parse(re.sub(r'(?m)^\s*[%!].*$', '', cell['source'])).body
            if len({isinstance(node, (ast.Import, ast.ImportFrom)) for node in body}) == 2:
                mixed.append(cell['source'][:80])
    assert not mixed


@each
def test_weight(name):
    "Pictures and all, a page is below 3 MB."
    assert len(json.dumps(PAGES[name])) < 3_000_000


def test_meta():
    "What others see of a page before they open it."
    site, html = quarto['website'], quarto['format']['html']
    assert (project.root/'nbs'/site['favicon']).exists()
    assert site['open-graph'] and site['twitter-card'] and html['canonical-url']
    for theme in html['theme'].values():
        assert (project.root/'nbs'/theme[-1]).exists()


def luminance(colour):
    "Of WCAG 2."
    parts = [int(colour[i:i+2], 16)/255 for i in (1, 3, 5)]
    return sum(w*(p/12.92 if p <= .04045 else ((p+.055)/1.055)**2.4) for w, p in zip((.2126, .7152, .0722), parts))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high+.05)/(low+.05)


def test_contrast_is_that_of_wcag():
    assert contrast('#000000', '#ffffff') == pytest.approx(21) and contrast('#777777', '#ffffff') == pytest.approx(4.48, abs=.005)


@pytest.mark.parametrize('mode', ['light', 'dark'])
@pytest.mark.parametrize('ground', ['ground', 'code'])
@pytest.mark.parametrize('ink', ['ink', 'quiet', 'accent', 'paper', 'leaf'])
def test_colours_can_be_read(mode, ink, ground):
    "At least 4.5 to 1, by day and by night."
    text = (project.root/'nbs'/f'{mode}.scss').read_text(encoding='utf-8')
    colours = dict(re.findall(r'--(\w+): (#[0-9a-f]{6});', text))
    assert contrast(colours[ink], colours[ground]) >= 4.5


def test_styles_have_no_colours_of_their_own():
    "All are variables that both modes define."
    css = (project.root/'nbs/styles.css').read_text(encoding='utf-8')
    assert not re.findall(r'#[0-9a-f]{3,6}\b(?![^{]*\{)', re.sub(r'/\*.*?\*/', '', css, flags=re.S))
    for mode in ('light', 'dark'):
        defined = set(re.findall(r'--(\w+):', (project.root/'nbs'/f'{mode}.scss').read_text(encoding='utf-8')))
        assert set(re.findall(r'var\(--(\w+)', css)) <= defined


def minutes(row):
    "What the page of the path counts, in the first of its rows that begins so."
    cells = json.loads(paths['50_path'].read_text(encoding='utf-8'))['cells']
    shown = ''.join(''.join(o['data'].get('text/markdown', '')) for c in cells for o in c.get('outputs', []) if 'data' in o)
    return int(re.search(rf'^\| {row} \|.*?\| \**(\d+)\** \|$', shown, re.M)[1])


def test_times_of_the_first_page():
    "What the cards promise is what the path counts: of the short page, and of Part I."
    first = ' '.join(cell['source'] for cell in texts('index'))
    assert minutes('In short') <= 10 and 'Guidance in ten minutes' in first
    hours = ['', 'An hour', 'Two hours', 'Three hours', 'Four hours', 'Five hours', 'Six hours', 'Seven hours']
    assert hours[round(minutes('together')/60)] in first
