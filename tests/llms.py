"""Makes nbs/llms.txt from the sidebar and the titles of the pages:  python tests/llms.py

What the site says to a language model, at its root, as llmstxt.org has it: a title, a quote, and links in sections with a
sentence each. The first two cells of the first page are its beginning. It stands among the tests because one of them checks
that it is in step.
"""
import re, yaml
import project


def address(name):
    "Where nbdev puts a notebook: without its number."
    return re.sub(r'^\d+_(.*)\.ipynb$', r'\1.html', name)


def line(name, cell):
    "The link to a page, and what stands below its title."
    title, sentence = re.match(r'# (.+)\n\n> (.+)', cell).groups()
    end = '' if sentence[-1] in '.?!' else '.'
    return f'- [{title}]({address(name)}): {sentence}{end}'


def render():
    "All of the file."
    pages = {path.name: [''.join(cell['source']) for cell in notebook['cells']] for path, notebook in project.notebooks().items()}
    sidebar = yaml.safe_load((project.root/'nbs/sidebar.yml').read_text(encoding='utf-8'))
    home, *sections = sidebar['website']['sidebar']['contents']
    blocks = pages[home][:2]
    for section in sections:
        lines = [line(name, pages[name][0]) for name in section['contents']]
        blocks.append(f"## {section['section']}\n\n" + '\n'.join(lines))
    return '\n\n'.join(blocks) + '\n'


def write():
    (project.root/'nbs/llms.txt').write_text(render(), encoding='utf-8')


if __name__ == '__main__':
    write()
