"The page of questions: its table of scales against the libraries that are here, and its answers with their proofs; and that each anchor of a link, on any page, is a heading."
import csv, importlib.util, re, sys
import pytest
import project
from test_map import PAGES, headings

sys.path.append(str(project.root/'benchmarks'))
import scales

with open(project.root/'results'/'scales'/'scales.csv', encoding='utf-8') as f:
    ROWS = list(csv.DictReader(f))
PACKAGES = {'denoising-diffusion-pytorch': 'denoising_diffusion_pytorch', 'labml-nn': 'labml_nn'}


def recorded(name):
    "What the record says of a library: value -> s."
    return {float(row['value']): float(row['s']) for row in ROWS if row['library'] == name}


@pytest.mark.parametrize('name', scales.REGISTRY)
def test_a_library_says_what_the_record_says(name):
    "Asked again, of those that are installed; diffusers is, where the tests run."
    package = PACKAGES.get(name, name.split(',')[0])
    if name != 'diffusers' and importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed')
    if ',' in name and importlib.util.find_spec('diffusers.guiders') is None:
        pytest.skip('these diffusers have no guiders')
    found, (_, _, probe) = recorded(name), scales.REGISTRY[name]
    assert set(found) == set(scales.VALUES)
    for value, s in found.items():
        assert abs(probe(value) - s) < 1e-5, value


def test_the_record_is_whole():
    "Every library that the script knows, by each value."
    assert {row['library'] for row in ROWS} == {*scales.REGISTRY, *scales.SOURCES}
    assert all(set(recorded(name)) == set(scales.VALUES) for name in {row['library'] for row in ROWS})


def test_what_is_no_mixture_is_refused():
    "And the s of a mixture is read off."
    assert abs(scales.scale_of(scales.B + 2.5*(scales.A-scales.B)) - 2.5) < 1e-12
    with pytest.raises(scales.Refusal, match='no mixture'): scales.scale_of(scales.A**2)


def test_a_folder_without_checkouts_is_refused(tmp_path):
    with pytest.raises(scales.Refusal, match='no checkout of git: there must be one for each of edm2'): scales.commit(tmp_path/'edm2')


def anchor(title):
    "The name that Quarto gives a heading: pandoc's."
    text = re.sub(r'\[(.*?)\]\(.*?\)|`', lambda m: m[1] or '', title).replace('$', '').lower()
    return re.sub(r'^[^a-z]+', '', '-'.join(re.sub(r'[^\w\s.-]', '', text).split()))


@pytest.mark.parametrize('title, name', [('Does it sample p(x|c) p(c|x)^w?', 'does-it-sample-pxc-pcxw'), ('SDE-DPM-Solver++', 'sde-dpm-solver'),
                                         ('Table 1: $w$ and $p_\\text{uncond}$', 'table-1-w-and-p_textuncond'), ('2 `a` [b](c.d)', 'a-b')])
def test_anchors(title, name):
    assert anchor(title) == name


def words(page):
    return [''.join(cell['source']) for cell in PAGES[page]['cells'] if cell['cell_type'] == 'markdown']


@pytest.mark.parametrize('page', PAGES)
def test_every_anchor_is_a_heading(page):
    "Of this page or of another one; in the bibliography an entry."
    dead = []
    for target, there in re.findall(r'\]\((?:(\w+)\.ipynb)?#([^)]*)\)', '\n'.join(words(page))):
        text = '\n'.join(words(target or page))
        known = {anchor(title) for _, title in headings(text)} | set(re.findall(r'<a id="(\w+)"', text))
        dead += [f'{target}#{there}'] if there not in known else []
    assert not dead


def test_every_question_has_an_answer_and_a_proof():
    "Two to six sentences, with a link to where it is shown."
    text = '\n'.join(words('54_questions'))
    parts = re.split(r'^#{2,3} (.*)$', text, flags=re.M)
    answers = {title: body for title, body in zip(parts[1::2], parts[2::2]) if title.endswith('?') or title.startswith('Two')}
    assert len(answers) >= 15
    for title, body in answers.items():
        assert '.ipynb#' in body and 2 <= len(re.findall(r'[.:?](?= |\n|$)', body)) <= 12, title
