"""Makes README.md from nbs/index.ipynb:  python tests/readme.py

nbdev does this through Quarto, which no package registry holds; the standard library is enough. What nbdev's directives
hide on the site is hidden here too. It stands among the tests because one of them checks that page and README agree.
"""
import base64, json, re
from pathlib import Path

root = Path(__file__).resolve().parents[1]
note = '<!-- Made from nbs/index.ipynb by tests/readme.py: edit the notebook. -->'
hiding = {'hide', 'export', 'exporti', 'default_exp'}


def directives(source):
    "A cell's directives as a dict, and its source without them and without the lines that end in `#| hide_line`."
    lines, found = source.splitlines(), {}
    while lines and (m := re.match(r'#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$', lines[0])):
        found[m[1]] = m[2].strip('\'"')
        lines.pop(0)
    return found, '\n'.join(line for line in lines if not re.search(r'#\s*\|\s*hide_line\s*$', line)).strip('\n')


def relink(text):
    "Links that hold beside the notebook, rewritten to hold beside README.md; code, addresses and anchors stay."
    def move(m):
        kept = re.match(r'[a-z]+:|[#/]', m[2])
        return m[0] if kept else m[1] + f'nbs/{m[2]}'.replace('nbs/../', '')
    parts = re.split(r'(^```.*?^```$|`[^`\n]+`)', text, flags=re.S | re.M)  # code is at the odd places
    parts[::2] = [re.sub(r'(\]\(|src=")([^)"\s]+)', move, part) for part in parts[::2]]
    return ''.join(parts)


def fence(text, language):
    return f'```{language}\n{text}\n```'


def show_outputs(cell, name, alt):
    "What a cell shows: blocks of markdown, and the pictures that they link to as {path: bytes}."
    blocks, pictures = [], {}
    for output in cell['outputs']:
        data = {kind: ''.join(value) for kind, value in output.get('data', {}).items()}
        if output.get('name') == 'stdout':
            blocks.append(fence(''.join(output['text']).rstrip('\n'), 'text'))
        elif 'image/png' in data:
            path = f'index_files/{name}-{len(pictures)}.png'
            pictures[path] = base64.b64decode(data['image/png'])
            blocks.append(f'![{alt}]({path})')
        elif 'text/markdown' in data:
            blocks.append(relink(data['text/markdown'].strip('\n')))
        elif 'text/plain' in data:
            blocks.append(fence(data['text/plain'].rstrip('\n'), 'text'))
    return blocks, pictures


def render(notebook):
    "A notebook, as read from JSON, as the text of README.md and its pictures as {path: bytes}."
    blocks, pictures = [note], {}
    for i, cell in enumerate(notebook['cells']):
        source = ''.join(cell['source']).strip('\n')
        if cell['cell_type'] == 'markdown':
            blocks.append(relink(source))
        if cell['cell_type'] != 'code':
            continue
        flags, source = directives(source)
        if hiding & flags.keys() or flags.get('include') == 'false':
            continue
        if source and 'hide_input' not in flags and flags.get('echo') != 'false':
            code = fence(source, 'python')
            folded = f'<details><summary>Code</summary>\n\n{code}\n\n</details>'
            blocks.append(folded if flags.get('code-fold') == 'true' else code)
        if 'hide_output' not in flags and flags.get('output') != 'false':
            shown, files = show_outputs(cell, cell.get('id', i), flags.get('fig-alt', ''))
            blocks += shown
            pictures |= files
    return '\n\n'.join(blocks) + '\n', pictures


def write(root=root):
    "Write README.md and index_files/ from the notebook; pictures that it no longer has are removed."
    text, pictures = render(json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8')))
    (root/'README.md').write_text(text, encoding='utf-8')
    for old in (root/'index_files').glob('*'):
        if f'index_files/{old.name}' not in pictures:
            old.unlink()
    for path, png in pictures.items():
        (root/path).parent.mkdir(exist_ok=True)
        (root/path).write_bytes(png)


if __name__ == '__main__':
    write()
