"A table says the same in a terminal and on a page; and nothing that a page holds is wider than the page."
import html, json, re
from html.parser import HTMLParser
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
import project
from cfg_repro.digits import all_tables, tables
from cfg_repro.paper import TABLES, paper_rows
from cfg_repro.results import Claim, Table, as_text, average, claimed, claims, read_csv, table


BREAK = '\u200b'


class Reader(HTMLParser):
    "What a browser finds in HTML: rows of (words, element, attributes, bold), a caption, and the tags that were opened."
    def __init__(self, text):
        super().__init__()
        self.rows, self.caption, self.open, self.tags = [], '', [], []
        self.feed(text)
        self.close()
        assert not self.open, f'never closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        if tag == 'wbr':                                  # where a word may be broken
            return self.handle_data(BREAK)
        self.open.append(tag)
        self.tags.append(tag)
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append(['', tag, dict(attrs), False])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if 'caption' in self.open:
            self.caption += data
        elif {'td', 'th'} & set(self.open):
            self.rows[-1][-1][0] += data
            self.rows[-1][-1][3] |= 'strong' in self.open


def on_a_page(t):
    return Reader(t._repr_html_())


def tokens(lines):
    "The words of lines of text, without what only keeps columns apart."
    return ' '.join(lines).replace('|', ' ').replace(BREAK, '').split()


def same(t):
    "The words of both forms, in whichever order broken cells put them; a bold number has a star."
    page = on_a_page(t)
    marked = [words + '*'*bold for row in page.rows for words, _, _, bold in row]
    assert sorted(tokens([page.caption, *marked])) == sorted(tokens(str(t).splitlines()))
    return page


digits = project.root/'results/digits'
about = json.loads((digits/'provenance.json').read_text())
first, second, third = tables(read_csv(digits/'cells.csv'), about['settings'])
BESIDE = all_tables(first, second, third, about['settings'])


@pytest.mark.parametrize('t', [*BESIDE, claimed(claims(first, 'p_uncond') + claims(second, 'T'), 'Said')],
                         ids=['1', '2', 'by a classifier', 'claims'])
def test_both_say_the_same(t):
    same(t)


def test_numbers_are_those_of_the_rows():
    "The paper's Table 1, cell by cell, from what was typed off the paper."
    page = same(BESIDE[0])
    body = page.rows[2:]
    typed = [list(map(float, line.split())) for line in TABLES[1].numbers.split('\n')[1:-1]]
    assert len(body) == len(typed) == 14
    for row, (w, *numbers) in zip(body, typed):
        words = [cell[0] for cell in row]
        assert float(words[0]) == w and list(map(float, words[7:10])) == numbers[:3]
        assert [int(x) for x in words[10:]] == [round(x) for x in numbers[3:]]
        assert words[1:4] == [f"{r['fd']:.2f}" for p in (.1, .2, .5) for r in first if (r['w'], r['p_uncond']) == (w, p)]


def test_the_lowest_is_marked():
    "Of what there is, not of what is shown: at T = 128 the paper's lowest FID is at a w that our Table 2 leaves out."
    for t, rows, column in ((BESIDE[0], (first, paper_rows(1)), 'p_uncond'), (BESIDE[1], (second, paper_rows(2)), 'T')):
        page, shown = on_a_page(t), {r['w'] for r in rows[0]}
        bold = [cell[0] for row in page.rows for cell in row if cell[3]]
        lowest = []
        for some in rows:
            for value in sorted({r[column] for r in some}):
                r = min((r for r in some if r[column] == value), key=lambda r: r['fd'])
                lowest += [f"{r['fd']:.2f}"]*(r['w'] in shown)
        assert sorted(bold) == sorted(lowest) == sorted(re.findall(r'(\S+)\*', str(t)))
    assert len(bold) == 5


def test_heads_say_what_they_are_of():
    page = on_a_page(BESIDE[0])
    over, head, *body = page.rows
    assert [cell[0] for cell in over] == ['', 'FD, digits', 'IS', 'FID, ImageNet 64', 'IS']
    assert [int(cell[2]['colspan']) for cell in over] == [1, 3, 3, 3, 3]
    assert [cell[1] for cell in over] == ['td', *['th']*4] and {cell[2]['scope'] for cell in over[1:]} == {'col'}
    assert {(cell[1], cell[2]['scope']) for cell in head} == {('th', 'col')} and len(head) == 13
    for row in body:
        assert [cell[1] for cell in row] == ['th', *['td']*12] and row[0][2]['scope'] == 'row'
        assert all('text-align: right' in cell[2]['style'] for cell in row)
    assert page.caption.startswith('Table 1 by w and p_uncond')
    (head, row) = on_a_page(claimed([Claim('It is so', True, '1 of 2')])).rows
    assert [cell[2].get('scope') for cell in row] == [None, 'row', None]
    assert all('text-align: left' in cell[2]['style'] for cell in row[:2])


def test_no_colour_and_no_size():
    "Dark or light, large or small, the page's own hold."
    text = ''.join(t._repr_html_() for t in BESIDE)
    assert not re.search(r'color|background|font-size|#[0-9a-f]{3}|rgb', text)


def test_everything_is_escaped():
    bad = '<b>&"\'</b>'
    t = Table([bad, 'n'], [[bad, 1]], groups=[(bad, 2)], caption=bad)
    page = on_a_page(t)
    assert [[cell[0] for cell in row] for row in page.rows] == [[bad], [bad, 'n'], [bad, '1']] and page.caption == bad
    assert 'b' not in page.tags and html.escape(bad) in t._repr_html_()


cell = st.one_of(st.none(), st.integers(-10**6, 10**6), st.floats(-100, 100, width=16),
                 st.text('abc<&" ', max_size=60), st.sampled_from(['0.92 ± 0.12', '-', '5*3']))


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 5).flatmap(lambda n: st.tuples(
    st.lists(st.text('de> ', max_size=9), min_size=n, max_size=n), st.lists(st.lists(cell, min_size=n, max_size=n), max_size=5),
    st.lists(st.sampled_from(['', 'one', 'several of them']), min_size=0, max_size=1))))
def test_any_table(made):
    "Whatever stands in it, both forms hold all of it; only what cannot be broken may be wider than a terminal."
    head, rows, over = made
    t = Table(head, rows, groups=[(title, len(head)) for title in over])
    page = same(t)
    assert len(page.rows) == len(rows) + 1 + len(over)
    lines = str(t).splitlines()
    longest = max(len(word) for line in lines for word in line.split()) if tokens(lines) else 0
    assert max(map(len, lines), default=0) <= max(80, 5*longest + 20)


def test_words_are_broken_before_numbers():
    t = Table(['name', 'n', 'words'], [['a long name of three or four words', 12345, 'so many words that no line of a terminal holds them all']])
    lines = str(t).splitlines()
    assert max(map(len, lines)) <= 80 < sum(len(str(c)) for c in t.rows[0]) and '12345' in lines[1]


# What the pages hold. A column of text is 778 pixels wide at a window of 1,280, and a line of code or of output of 88
# characters fits into it at 13.5 pixels. A table is estimated from its characters, at the same size: a digit or a letter
# of the site's type takes at most 0.56 em in the mean (Helvetica's digits, measured in a browser), 0.6 where it is bold,
# and a cell has half a rem of room on either side. Words may be broken at spaces, numbers never, so a column is as wide
# as its longest word or its longest number.
COLUMN, SIZE, ROOM = 778, 13.5, 16
pages = project.notebooks()
each = pytest.mark.parametrize('page', pages.values(), ids=[path.stem for path in pages])


def outputs(page, kind):
    "What cells have printed or shown as a kind, 'text/html' or 'text/plain'; text beside a picture is nobody's."
    for cell in page['cells']:
        for o in cell.get('outputs', []):
            data = o.get('data', {})
            if kind == 'text/plain' and 'text' in o:
                yield ''.join(o['text'])
            elif kind in data and 'image/png' not in data and not (kind == 'text/plain' and 'text/markdown' in data):
                yield ''.join(data[kind])


def lines_too_wide(page):
    return [line for text in outputs(page, 'text/plain') for line in text.splitlines() if len(line) > 88]


def width(text):
    "The least width of a table in pixels."
    least = {}
    for row in Reader(text).rows:
        at = 0
        for words, tag, attributes, _ in row:
            n = int(attributes.get('colspan', 1))
            whole = 'nowrap' in attributes.get('style', '')
            longest = len(words) if whole else max(map(len, words.replace(BREAK, ' ').split()), default=0)
            if n == 1:
                least[at] = max(least.get(at, 0), longest*SIZE*(.6 if tag == 'th' else .56))
            at += n
    return sum(least.values()) + ROOM*len(least)


def tables_of(page):
    return [text for text in outputs(page, 'text/html') if '<table' in text]


@each
def test_output_fits_the_page(page):
    assert not lines_too_wide(page), '\n'.join(lines_too_wide(page))
    wide = [re.sub('<[^>]+>', ' ', text) for text in tables_of(page) if width(text) > COLUMN]
    assert not wide, '\n'.join(wide)


@each
def test_stored_tables_say_the_same(page):
    "The text that is stored beside each `Table` is that table; others have a text of their own."
    for cell in page['cells']:
        for o in cell.get('outputs', []):
            data = {kind: ''.join(text) for kind, text in o.get('data', {}).items() if kind.startswith('text/')}
            if 'scope="col"' in data.get('text/html', ''):
                page = Reader(data['text/html'])
                marked = [words + '*'*bold for row in page.rows for words, _, _, bold in row]
                assert sorted(tokens([page.caption, *marked])) == sorted(tokens(data['text/plain'].splitlines()))


def test_the_rules_see():
    "A line of 88 characters fits and one of 89 does not; a table of numbers that is too wide is found, one of words is broken."
    def page(**data): return dict(cells=[dict(outputs=[dict(data=data)]), dict(outputs=[dict(text=['a\n', 'b'*88])])])
    assert lines_too_wide(page(**{'text/plain': ['c'*89]})) == ['c'*89] and not lines_too_wide(page(**{'text/plain': 'c'*88}))
    assert not lines_too_wide(page(**{'text/plain': 'c'*89, 'image/png': ''}))
    few, many = (Table(['n']*n, [[1234567.]*n], forms=['.2f']*n) for n in (8, 9))
    assert width(few._repr_html_()) < COLUMN < width(many._repr_html_())
    assert width(Table(['words'], [['so many words ' * 40]])._repr_html_()) < 100
    assert sum('<table' in text for page in pages.values() for text in outputs(page, 'text/html')) > 80
