"What is read of the project from outside: CITATION.cff by who cites it, llms.txt by language models."
import os, re, runpy
from pathlib import Path
from unittest.mock import patch
import yaml
from nbdev.doclinks import _nbpath2html
import project, llms
from test_sync import sections

citation = yaml.safe_load((project.root/'CITATION.cff').read_text(encoding='utf-8'))
# What Citation File Format 1.2.0 has: of a file, what it must have and may have; of a reference, of a person
MUST = {'cff-version', 'message', 'title', 'authors'}
MAY = MUST | {'abstract', 'commit', 'contact', 'date-released', 'doi', 'identifiers', 'keywords', 'license', 'license-url', 'preferred-citation',
              'references', 'repository', 'repository-artifact', 'repository-code', 'type', 'url', 'version'}
OF_PAPER = {'type', 'title', 'authors', 'year', 'conference', 'identifiers', 'url'}


def of_wheel():
    "What setup.py hands to setuptools."
    here = os.getcwd()
    os.chdir(project.root)
    try:
        with patch('setuptools.setup') as setup:
            runpy.run_path('setup.py')
    finally:
        os.chdir(here)
    return setup.call_args.kwargs


def test_citation_is_of_this_version():
    "Version, authors, words and licence are those of settings.ini, and of the wheel."
    settings, wheel = project.settings, of_wheel()
    assert MUST <= citation.keys() <= MAY and citation['cff-version'] == '1.2.0' and citation['type'] == 'software'
    assert citation['version'] == settings['version'] == wheel['version'] and citation['license'] == wheel['license']
    assert (citation['title'], citation['abstract']) == (settings['lib_name'], settings['description'])
    assert citation['authors'] == [{'name': settings['author']}] and citation['keywords'] == settings['keywords'].split()


def test_citation_names_the_paper():
    "As the bibliography has it."
    (paper,) = citation['references']
    assert paper.keys() == OF_PAPER and paper['type'] == 'conference-paper'
    (number,) = paper['identifiers']
    assert number.keys() == {'type', 'value', 'description'} and number['type'] == 'other'
    names = ' and '.join(f"{a['given-names']} {a['family-names']}" for a in paper['authors'])
    entry = f"{names} ({paper['year']}). *{paper['title']}.* {paper['conference']['name']}. [{number['value']}]({paper['url']})."
    pages = {path.stem: nb for path, nb in project.notebooks().items()}
    assert [entry in ''.join(cell['source']) for cell in pages['53_bibliography']['cells']].count(True) == 1


def test_llms_is_in_step():
    stored = (project.root/'nbs/llms.txt').read_text(encoding='utf-8')
    assert stored == llms.render(), 'python tests/llms.py'


def test_llms_lists_every_page():
    "The sections of the sidebar with their pages in order: the title of each, its address on the site by nbdev's rule, the words below its title."
    head, *rest = (project.root/'nbs/llms.txt').read_text(encoding='utf-8').split('\n## ')
    found = {}
    for section in rest:
        name, lines = section.split('\n\n', 1)
        found[name] = [re.fullmatch(r'- \[(.+)\]\(([^()]+)\): (.+[.?!])', line).groups() for line in lines.strip().split('\n')]
    first = {path.name: ''.join(nb['cells'][0]['source']).splitlines() for path, nb in project.notebooks().items()}
    assert list(found) == list(sections())
    for name, pages in sections().items():
        assert [address for _, address, _ in found[name]] == [_nbpath2html(Path(page)).name for page in pages]
        assert ['# ' + title for title, _, _ in found[name]] == [first[page][0] for page in pages]
        assert all(first[page][2].removeprefix('> ') in (words, words[:-1]) for page, (_, _, words) in zip(pages, found[name], strict=True))
    title, _, quote, *about = head.splitlines()
    assert title == f"# {project.settings['title']}" and quote.startswith('> ') and any(about) and not any(line.startswith('#') for line in about)


def test_llms_is_at_the_root():
    "Quarto copies it as it is, from beside the pages to the root of the site."
    site = yaml.safe_load((project.root/'_quarto.yml').read_text(encoding='utf-8'))
    assert site['project']['resources'] == ['llms.txt']
