"Equations fit where they stand: MathJax sets all of them in a browser, as on the site. Algorithms and quotes are as dark as the text."
import html, re
import pytest
import browser, project

COLUMN = 500                # pixels: the theme leaves words no less beside its two bars; a window of 1280 has 778
WINDOW = 390                # that of a phone
PHONE = WINDOW - 2*1.5*17   # what is left of it between the theme's margins, 1.5 times the size of letters each
IN_LINE = 300               # MathJax breaks no formula in a line, so that each fits on a phone, also in a list or a quote

# MathJax makes its letters as high as those around it: here as high as beside the tallest of the theme's fonts (Roboto, 0.528 of
# its size; MathJax's own have 0.442), whatever fonts this machine has. An unknown command is an error, not red letters.
SETTINGS = "{chtml: {matchFontHeight: false, scale: 1.2}, tex: {packages: {'[-]': ['noundefined']}}, startup: {typeset: false}}"
MATHJAX = 'mathjax', '3.2.2'   # Quarto loads mathjax@3


def formulas(source):
    "The formulas in a cell of words, quoted or not: [(TeX, whether it is displayed)]."
    text = re.sub(r'^ *(```|~~~).*?^ *\1|`[^`\n]+`', '', source, flags=re.S | re.M)
    parts = re.sub('^ *> ?', '', text, flags=re.M).split('$$')
    assert len(parts)%2, f'a $$ without its other: {text}'
    lines = re.split(r'(?<!\\)\$', ' '.join(parts[::2]))
    assert len(lines)%2, f'a $ without its other: {text}'
    return [(tex, True) for tex in parts[1::2]] + [(tex, False) for tex in lines[1::2]]


def all_formulas():
    "Those of all pages, once each: {(TeX, displayed): where it stands}."
    return {formula: f"{path.stem}, cell {cell['id']}" for path, page in project.notebooks().items()
            for cell in page['cells'] if cell['cell_type'] == 'markdown' for formula in formulas(''.join(cell['source']))}


def test_formulas_are_found():
    quoted = '> so $a$\n>\n> $$b\n> c$$\n\n1. $d$ costs \\$5 or `$HOME`\n\n```\n$$\n```\n\n$$e$$'
    assert formulas(quoted) == [('b\nc', True), ('e', True), ('a', False), ('d', False)]
    for half in ('$$a$$ $$b', 'a $b'):
        with pytest.raises(AssertionError):
            formulas(half)


def markup(tex, displayed):
    "A formula as pandoc writes it for MathJax."
    kind, left, right = ('display', r'\[', r'\]') if displayed else ('inline', r'\(', r'\)')
    return f'<p><span class="math {kind}">{left}{html.escape(tex)}{right}</span></p>'


def document(body, mode='light'):
    "A page in the site's own style, by day or by night, and with those of the theme's rules that matter here."
    colours, style = ((project.root/'nbs'/name).read_text(encoding='utf-8') for name in (f'{mode}.scss', 'styles.css'))
    colours = colours.split('/*-- scss:rules --*/')[1]
    return f'''<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>html {{ font-size: 17px }} body {{ margin: 0 }} main {{ margin: 0 1.5rem }} .blockquote {{ color: #767b80 }}</style>
<style>{colours}{style}</style><script>window.MathJax = {SETTINGS}</script><script src="/mathjax/es5/tex-chtml-full.js"></script>
<body><main>{body}</main></body></html>'''


# What each formula needs: in a column of no width nothing is as wide as its column, and an equation keeps room for its number.
NEEDS = '''() => {
  const main = document.querySelector('main')
  main.style.width = 0
  const width = one => one ? one.getBoundingClientRect().width : 0
  const made = [...main.querySelectorAll('.math')].map(math => math.querySelector('mjx-container'))
  const needs = made.map(one => Math.max(width(one), width(one && one.firstElementChild)))
  main.style.width = ''
  return needs
}'''
FAULTS = '''() => [...document.querySelectorAll('.math')].map(math => math.querySelector('mjx-container')
  ? [...math.querySelectorAll('mjx-merror')].map(e => e.getAttribute('data-mjx-error') || e.textContent).join() : 'not set')'''
BOXES = '''() => [...document.querySelectorAll('.math.display')].map(math => [math.getBoundingClientRect().right,
  Math.max(...[math, ...math.children].map(one => one.scrollWidth - one.clientWidth))])'''


def typeset(made, some):
    "What MathJax makes of formulas: faults, widths in a wide window and in a phone's, and the phone's page itself."
    shown = browser.opened(made, document(''.join(markup(*formula) for formula in some)), width=1280,
                           folders={'mathjax': browser.package(*MATHJAX)})
    shown.evaluate('async () => { await MathJax.startup.promise; await MathJax.typesetPromise() }')
    found = dict(faults=shown.evaluate(FAULTS), wide=shown.evaluate(NEEDS))
    shown.set_viewport_size(dict(width=WINDOW, height=900))
    return found | dict(phone=shown.evaluate(NEEDS), boxes=shown.evaluate(BOXES),
                        page=shown.evaluate('document.documentElement.scrollWidth'))


@pytest.fixture(scope='module')
def chromium():
    with browser.browser() as made:
        yield made


@pytest.fixture(scope='module')
def pages(chromium):
    "All formulas and what became of them: [(where, TeX, displayed, fault, width, width on a phone)], and the rest."
    places = all_formulas()
    found = typeset(chromium, places)
    each = zip(places.values(), *zip(*places), found['faults'], found['wide'], found['phone'], strict=True)
    return list(each), found


def test_mathjax_is_looked_at(chromium):
    "An a is 0.529 of the size, which is 17 by 1.2 pixels; a number takes its room on both sides, for the equation stays in the middle."
    long = 'a'*100
    found = typeset(chromium, [(long, True), (long, False), (r'\foo', True), ('a^b^c', True), (r'\frac{a', True), (f'{long}\\tag{{1}}', True)])
    assert found['faults'] == ['', '', r'Undefined control sequence \foo', 'Double exponent: use braces to clarify', 'not set', '']
    assert found['wide'][:2] == pytest.approx([52.9*20.4]*2, rel=1e-2)
    assert found['phone'][0] < found['phone'][1] == pytest.approx(found['wide'][1])
    assert found['wide'][5] - found['wide'][0] == pytest.approx(2*(1.278 + .8)*20.4, rel=2e-2)
    assert [right <= WINDOW and hidden > 500 for right, hidden in found['boxes']] == [True, False, False, False, True]
    assert found['page'] > 1000        # the one in a line


def test_no_formula_has_an_error(pages):
    assert not [(where, tex, fault) for where, tex, _, fault, *_ in pages[0] if fault]


def test_displayed_equations_fit_the_column(pages):
    "One that does not is broken into lines: \\begin{aligned} … \\end{aligned}."
    displayed = [(where, tex, round(wide)) for where, tex, shown, _, wide, _ in pages[0] if shown]
    assert len(displayed) > 100
    assert not [one for one in displayed if one[2] > COLUMN]


def test_equations_of_the_paper_fit_on_a_phone(pages):
    numbered = {found[1]: (where, phone) for where, tex, _, _, _, phone in pages[0] if (found := re.search(r'\\tag\{(.*?)\}', tex))}
    assert sorted(numbered) == ['1', '2', '3', '4', '5', '6']
    assert not {number: one for number, one in numbered.items() if one[1] > PHONE}


def test_no_page_scrolls_sideways(pages):
    "Formulas in a line fit on a phone; an equation that does not scrolls within its own box."
    each, found = pages
    assert not [(where, tex, round(phone)) for where, tex, shown, _, _, phone in each if not shown and phone > IN_LINE]
    beyond = [max(0, phone - PHONE) for _, _, shown, _, _, phone in each if shown]
    assert [hidden for _, hidden in found['boxes']] == pytest.approx(beyond, abs=1.5)
    assert found['page'] == WINDOW


# Algorithms and quotes

ALGORITHM = r'(?<=\n\n)<div class="algorithm">\n\n(.*?)\n\n</div>(?=\n\n|\Z)'     # Markdown within it needs the blank lines


def test_algorithms_are_blocks():
    "Those of the paper have as many lines as there, and no page sets one in another way."
    found = {}
    for path, page in project.notebooks().items():
        for source in (''.join(cell['source']) for cell in page['cells'] if cell['cell_type'] == 'markdown'):
            assert source.count('class="algorithm"') == len(blocks := re.findall(ALGORITHM, source, re.S)), path
            assert not re.search(r'^> *\*\*Algorithm', source, re.M), path
            found |= {title[1]: re.findall(r'^(\d+)\. ', block, re.M) for block in blocks
                      if (title := re.match(r'\*\*(Algorithm \d)\*\*', block))}
    assert found == {'Algorithm 1': list('12345678'), 'Algorithm 2': list('1234567')}


def luminance(colour):
    "Of a colour as the browser writes it, by the definition of WCAG 2."
    parts = [int(part)/255 for part in re.findall(r'\d+', colour)[:3]]
    linear = [part/12.92 if part <= .04045 else ((part + .055)/1.055)**2.4 for part in parts]
    return sum(weight*part for weight, part in zip((.2126, .7152, .0722), linear))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + .05)/(low + .05)


@pytest.mark.parametrize('mode', ['light', 'dark'])
def test_algorithms_and_quotes_are_dark_enough(chromium, mode):
    assert contrast('rgb(0, 0, 0)', 'rgb(255, 255, 255)') == pytest.approx(21)
    assert contrast('rgb(118, 118, 118)', 'rgb(255, 255, 255)') == pytest.approx(4.54, abs=.01)
    shown = browser.opened(chromium, document('''<p id="ground" style="color: var(--ground)">.</p>
<blockquote class="blockquote"><p>the paper's words</p></blockquote>
<div class="algorithm"><p>title</p><ol><li>one</li></ol></div>''', mode), width=1280)
    look = '''name => { const it = getComputedStyle(document.querySelector(name))
        return [it.color, parseFloat(it.lineHeight)/parseFloat(it.fontSize)] }'''
    ground, *_ = shown.evaluate(look, '#ground')
    assert (luminance(ground) > .5) == (mode == 'light')
    for name in ('blockquote p', '.algorithm p', '.algorithm li'):
        colour, height = shown.evaluate(look, name)
        assert contrast(colour, ground) >= 4.5, name
        assert height <= 1.4 or 'algorithm' not in name, name
