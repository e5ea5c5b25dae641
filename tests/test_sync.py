"What is made from the notebooks is in step with them: modules, README, site."
import json, os, re, shutil, subprocess, sys
import pytest, yaml
import project, readme

# Under IN_TEST nbdev exports nothing.
environment = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}


@pytest.fixture
def copy(tmp_path):
    "The project's own files, copied: links stay links, and what git ignores is left behind."
    for name in project.files():
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project.root/name, tmp_path/name, follow_symlinks=False)
    return tmp_path


def snapshot(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def damage(path):
    if path.suffix == '.ipynb':
        notebook = json.loads(path.read_text(encoding='utf-8'))
        notebook['metadata']['dirt'] = notebook['cells'][0]['metadata']['dirt'] = True
        path.write_text(json.dumps(notebook), encoding='utf-8')
    else:
        path.write_text(path.read_text(encoding='utf-8') + '\n# dirt\n', encoding='utf-8')


@pytest.mark.slow
@pytest.mark.parametrize('made, command', [
    ('nbs/[0-9]*.ipynb', 'from nbdev.clean import nbdev_clean; nbdev_clean()'),
    ('cfg_repro/[a-z]*.py', 'from nbdev.doclinks import nbdev_export; nbdev_export()'),
    ('nbs/nbdev.yml', 'from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()'),
    ('README.md', 'import sys; sys.path.insert(0, "tests"); import readme; readme.write()'),
    ('nbs/llms.txt', 'import sys; sys.path.insert(0, "tests"); import llms; llms.write()')])
def test_made_again_it_is_the_same(copy, made, command):
    "Each generated file is spoilt, made again, and must be what is stored; and no other file may change."
    stored = snapshot(copy)
    paths = sorted(copy.glob(made))
    assert paths
    for path in paths:
        damage(path)
    subprocess.run([sys.executable, '-B', '-c', command], cwd=copy, env=environment, check=True)
    after = snapshot(copy)
    changed = sorted(name for name in stored.keys() | after.keys() if stored.get(name) != after.get(name))
    assert not changed, f'not in step with the notebooks: {changed}'


def test_readme_pictures():
    "index_files/ holds the README's pictures and nothing else."
    _, pictures = readme.render(json.loads((project.root/'nbs/index.ipynb').read_text(encoding='utf-8')))
    stored = {f'index_files/{path.name}': path.read_bytes() for path in (project.root/'index_files').glob('*')}
    assert stored == pictures


def test_readme_rules():
    "Directives hide what they hide on the site; links move one folder up; code and addresses do not."
    def code(*lines, outputs=()):
        return dict(cell_type='code', id='c', source='\n'.join(lines), outputs=list(outputs))
    png = dict(output_type='display_data', data={'image/png': 'AAEC', 'text/plain': '<Figure>'})
    out = dict(output_type='stream', name='stdout', text=['1\n', '2\n'])
    err = dict(output_type='stream', name='stderr', text=['warning\n'])
    text, pictures = readme.render(dict(cells=[
        dict(cell_type='raw', source='raw'),
        dict(cell_type='markdown', source=['[a](00_a.ipynb) [b](../B.md#c) [c](https://d.e) [f](#g) `[h](i)`\n',
                                           '```\n', '[j](k)\n', '```']),
        code('#| hide', 'secret'), code('#| default_exp secret'), code('#| export', 'secret'),
        code('#| include: false', 'secret'),
        code('#| echo: false', 'secret', outputs=[out, err]),
        code('#| fig-alt: "a b"', '#| code-fold: true', 'plot()', 'secret #| hide_line', outputs=[png]),
        code('#| output: false', '#| eval: false', 'go()', outputs=[out])]))
    assert text == readme.note + '''

[a](nbs/00_a.ipynb) [b](B.md#c) [c](https://d.e) [f](#g) `[h](i)`
```
[j](k)
```

```text
1
2
```

<details><summary>Code</summary>

```python
plot()
```

</details>

![a b](index_files/c-0.png)

```python
go()
```
'''
    assert pictures == {'index_files/c-0.png': b'\x00\x01\x02'}


def sections():
    "The sections of the sidebar, as {name: pages}; the page that stands before them is no section."
    sidebar = yaml.safe_load((project.root/'nbs/sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']
    first, *rest = sidebar['contents']
    assert first == 'index.ipynb'
    return {section['section']: section['contents'] for section in rest}


def test_sidebar_lists_every_page():
    "Each page stands there once. The sections are the order of reading; within one of them the numbers rise, but garments stand after digits and the short page first."
    listed = [page for pages in sections().values() for page in pages]
    assert sorted(['index.ipynb', *listed]) == sorted(path.name for path in project.notebooks())
    for pages in sections().values():
        assert pages == sorted(pages, key=lambda page: page.replace('46_fashion', '40_fashion').replace('49_ten', '37_ten'))


def test_index_lists_what_the_sidebar_lists():
    "The table of the first page, and of the README, has the sections of the sidebar with their pages in order."
    cells = json.loads((project.root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']
    (table,) = (''.join(c['source']) for c in cells if '## Read it' in ''.join(c['source']))
    rows = re.findall(r'^\| \*\*(.*?)\*\* \| (.*) \|$', table, re.M)
    assert {name: re.findall(r'\]\((.*?)\)', links) for name, links in rows} == sections()


def test_quarto_file_is_one():
    "nbdev reads nbs/_quarto.yml only; it is a link to the file at the top."
    assert os.readlink(project.root/'nbs/_quarto.yml') == '../_quarto.yml'


def test_links_lead_somewhere():
    "A relative link on a page or in a text of the project names a file of it; an anchor in it is not checked."
    pages = {path: '\n'.join(''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown')
             for path, nb in project.notebooks().items()}
    texts = ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md', 'benchmarks/README.md')
    pages |= {project.root/name: (project.root/name).read_text(encoding='utf-8') for name in texts}
    dead = []
    for path, text in pages.items():
        prose = re.sub(r'```.*?```|`[^`\n]+`|\$\$.*?\$\$|\$[^$]+\$', '', text, flags=re.S)
        targets = re.findall(r'\]\((?![a-z]+:|#|attachment)([^)\s#]+)', prose)
        dead += [f'{path.name}: {target}' for target in targets if not (path.parent/target).exists()]
    assert not dead
