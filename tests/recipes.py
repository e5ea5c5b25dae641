"The recipes of page 55: their code as one would copy it, what it prints, and the lines for a terminal."
import re
import project, readme
from test_map import section

PAGE = next(nb for path, nb in project.notebooks().items() if path.stem == '55_recipes')


def cells(title):
    "The code cells below a heading that are in sight and run in no more than a moment."
    found = [(c, readme.directives(''.join(c['source']))) for c in section(PAGE, title) if c['cell_type'] == 'code']
    return [(c, source) for c, (flags, source) in found if not {'hide', 'slow'} & flags.keys()]


def code(title):
    "All of a recipe, as one script."
    return '\n'.join(source for _, source in cells(title)) + '\n'


def printed(title):
    "What the page shows of it."
    return ''.join(''.join(o['text']) for c, _ in cells(title) for o in c['outputs'] if o.get('name') == 'stdout')


def commands():
    "The lines for a terminal."
    text = '\n'.join(''.join(c['source']) for c in section(PAGE, 'A folder of pictures') if c['cell_type'] == 'markdown')
    return re.search(r'```bash\n(.*?)\n```', text, re.S)[1].splitlines()
