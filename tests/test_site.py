"""The site as Quarto renders it, in a browser: run by the workflow that publishes it, or by hand after nbdev_docs.

    SITE=_docs pytest tests/test_site.py
"""
import os, re
from html.parser import HTMLParser
from pathlib import Path
import pytest
import browser, project

SITE = Path(os.environ.get('SITE') or project.root/'_docs')
pages = sorted(path.name for path in SITE.glob('*.html'))
pytestmark = [pytest.mark.skipif(not pages, reason='no site is rendered: nbdev_docs, with Quarto'), pytest.mark.slow]
each = pytest.mark.parametrize('name', pages)
MATHJAX, AXE = ('mathjax', '3.2.2'), ('axe-core', '4.10.2')


class Seen(HTMLParser):
    "The ids, the links and the head of a page."
    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.head = [], [], {}
        self.feed(html)

    def handle_starttag(self, tag, properties):
        found = dict(properties)
        if 'id' in found and tag != 'link':        # the two modes' style sheets share Quarto's own
            self.ids.append(found['id'])
        if tag == 'a' and found.get('href'):
            self.links.append(found['href'])
        if tag in ('meta', 'link'):
            self.head[found.get('name') or found.get('property') or found.get('rel')] = found.get('content') or found.get('href')


SEEN = {name: Seen((SITE/name).read_text(encoding='utf-8')) for name in pages}


def test_every_notebook_has_its_page():
    names = {re.sub(r'^\d\d_', '', path.stem) for path in project.notebooks()}
    assert {name.removesuffix('.html') for name in pages} == names
    assert {path.name for path in (SITE/'notebooks').glob('*')} == {path.name for path in project.notebooks()}


@each
def test_ids_are_there_once(name):
    ids = SEEN[name].ids
    assert not {one for one in ids if ids.count(one) > 1}


@each
def test_links_lead_somewhere(name):
    "To a file of the site, and to an anchor in it."
    dead = []
    for link in SEEN[name].links:
        target, _, there = re.sub(r'^\./', '', link).partition('#')
        if re.match(r'[a-z]+:|//', link) or link.startswith('javascript'):
            continue
        inside = (SITE/target).resolve().is_relative_to(SITE.resolve())
        if target and not (inside and (SITE/target).exists()):
            dead.append(link)
        elif there and (target or name) in SEEN and there not in SEEN[target or name].ids:
            dead.append(link)
    assert not dead


@each
def test_head(name):
    "What a search engine, and who shares the page, see of it."
    head = SEEN[name].head
    assert head['description'] and head['og:title'] and head['icon'] and head['canonical']


@pytest.fixture(scope='module')
def chromium():
    with browser.browser() as made:
        yield made


def visited(made, name):
    "A page of the site; what it would load from elsewhere comes from npm's packages, or not at all."
    page = made.new_page(viewport=dict(width=1280, height=900), color_scheme='light')
    page.set_default_timeout(120_000)

    def answer(route):
        url = route.request.url.split('?')[0].split('#')[0]
        path = SITE/url.removeprefix(f'{browser.SITE}/') if url.startswith(browser.SITE) else None
        if 'mathjax@3/' in url:
            path = browser.package(*MATHJAX)/url.split('mathjax@3/')[1]
        return route.fulfill(path=path) if path and path.is_file() else route.fulfill(body='', content_type='text/javascript')
    page.route('**/*', answer)
    page.goto(f'{browser.SITE}/{name}')
    page.evaluate('async () => { if (window.MathJax) await MathJax.startup.promise }')
    return page


# What reaches beyond the column of words and does not scroll by itself, as tags with their classes
BEYOND = '''() => {
  const main = document.querySelector('main'), edge = main.getBoundingClientRect().right + 3
  const scrolls = one => one && one !== main && (/auto|scroll|hidden/.test(getComputedStyle(one).overflowX) || scrolls(one.parentElement))
  const seen = one => one.getBoundingClientRect().width > 1 && getComputedStyle(one).visibility !== 'hidden'
    && getComputedStyle(one).display !== 'inline'        // spaces at the end of a line hang over, unseen
  return [...main.querySelectorAll('*')].filter(one => seen(one) && one.getBoundingClientRect().right > edge && !scrolls(one.parentElement))
    .map(one => `${one.tagName}.${one.className} ${one.textContent.slice(0, 60)}`).slice(0, 5)
}'''
# Of the outputs and the code of a wide window, those that one has to scroll to see
HIDDEN = '''() => [...document.querySelectorAll('main pre, main .cell-output-display')]
  .filter(one => one.offsetParent && one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.trim().slice(0, 60))'''


def serious(page):
    "What axe-core finds that keeps somebody out."
    found = page.evaluate('async () => (await axe.run()).violations')
    return [(v['id'], v['help'], [node['html'][:120] for node in v['nodes']][:3])
            for v in found if v['impact'] in ('serious', 'critical')]


def looked(made, name):
    "A page by day and by night, in a wide window and in that of a phone: all that there is to complain about."
    page = visited(made, name)
    try:
        page.evaluate((browser.package(*AXE)/'axe.min.js').read_text(encoding='utf-8'))
        found = dict(beyond=page.evaluate(BEYOND), hidden=page.evaluate(HIDDEN), light=serious(page))
        page.emulate_media(color_scheme='dark')
        page.wait_for_timeout(500)        # the other mode's style sheets come
        found['dark'] = serious(page)
        page.set_viewport_size(dict(width=390, height=900))
        found |= dict(phone=page.evaluate(BEYOND), phone_axe=serious(page), sideways=page.evaluate('document.documentElement.scrollWidth - innerWidth'))
        return {what: some for what, some in found.items() if some}
    finally:
        page.close()


@each
def test_it_fits_and_is_accessible(chromium, name):
    """No page scrolls sideways, and nothing reaches beyond the column; in a wide window all code, outputs and tables are seen
    whole; axe-core finds nothing serious, by day or by night."""
    assert looked(chromium, name) == {}


def test_search_finds_algorithm_2(chromium):
    "Where it stands, first."
    page = visited(chromium, 'index.html')
    try:
        page.click('#quarto-search button')
        page.fill('.aa-Input', 'Algorithm 2')
        page.wait_for_selector('.aa-Item')
        assert '/sampling.html' in page.eval_on_selector('.aa-Item a', 'a => a.href')
    finally:
        page.close()
