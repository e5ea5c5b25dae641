"A headless browser, and packages of npm to load into it: for the tests of what a reader of the site sees."
import os, shutil, subprocess, tempfile
from contextlib import contextmanager
from pathlib import Path
import pytest

CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home()/'.cache')/'cfg_repro-tests'
SITE = 'http://site.test'        # no address of the net: every request is answered by `opened`


def missing(what):
    "In CI a test that cannot look fails; elsewhere it is skipped."
    if os.environ.get('CI'):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def package(name, version):
    "The folder of a package of npm, installed into a cache when it is not there yet."
    folder = CACHE/f'{name}-{version}'
    if folder.exists():
        return folder
    if not (npm := shutil.which('npm')):
        missing(f'npm is not installed, with which {name} would be')
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        done = subprocess.run([npm, 'install', '--prefix', made, '--ignore-scripts', '--no-audit', '--no-fund', f'{name}@{version}'],
                              capture_output=True, text=True)
        if done.returncode:
            missing(f"npm could not install {name}@{version}: {' '.join(done.stderr.split())[:200]}")
        try:
            os.rename(Path(made)/'node_modules'/name, folder)
        except OSError:        # another process was first
            assert folder.exists()
    return folder


@contextmanager
def browser():
    "A headless Chromium: the one of the system, whatever its name."
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing('playwright is not installed: pip install playwright')
    names = ('chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome',
             '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome')
    if not (path := next(filter(None, map(shutil.which, names)), None)):
        missing(f"no browser is installed: none of {', '.join(names)}")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=['--no-sandbox'])
        try:
            yield made
        finally:
            made.close()


def opened(made, html, *, width, folders=()):
    "A page of a browser that shows `html` in a window of `width`; `folders`, {name: path}, are served beside it."
    page = made.new_page(viewport=dict(width=width, height=900))
    page.set_default_timeout(120_000)        # milliseconds: the machine may be busy

    def answer(route):
        name, _, rest = route.request.url.removeprefix(f'{SITE}/').partition('/')
        if not name:
            return route.fulfill(body=html, content_type='text/html; charset=utf-8')
        if name in folders and (path := folders[name]/rest).is_file():
            return route.fulfill(path=path)
        return route.abort()
    page.route('**/*', answer)
    page.goto(f'{SITE}/')
    return page
