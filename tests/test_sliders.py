"""The sliders in a real browser without a window: their mathematics against ours, and what moves under hand and keys."""
import base64, csv, io, json
from collections import Counter
from types import SimpleNamespace
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close
import browser as chromium, project
from cfg_repro.mixture import Mixture, guided_log_prob
from cfg_repro.guidance import guide, guided
from cfg_repro.reverse import ancestral_step
from cfg_repro.sampling import sample, trajectory
from cfg_repro.schedule import alpha_sigma, logsnr_grid
from cfg_repro.results import read_csv
from cfg_repro.sliders import curve_slider, density_slider, guided_densities, image_slider, path_slider
from cfg_repro.solvers import ddim_step

EXACT = dict(rtol=1e-9, atol=1e-9)
INF = torch.tensor(float('inf'), dtype=torch.float64)


@pytest.fixture(scope='module')
def browser():
    with chromium.browser() as made:
        yield made


@pytest.fixture
def show(browser):
    "Opens figures in a page of their own; at the end no page has complained, or asked for anything."
    contexts, wrong = [], []
    def opened(*figures, width=702, css='', **how):
        context = browser.new_context(viewport=dict(width=width, height=900), **how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(180_000)                         # on a machine that is busy
        page.on('console', lambda message: wrong.append(message.text))
        page.on('pageerror', lambda error: wrong.append(str(error)))
        page.on('request', lambda asked: asked.url.startswith('data:') or wrong.append(asked.url))
        html = ''.join(f._repr_mimebundle_()['text/html'] for f in figures)
        page.set_content(f'<!doctype html><meta name="viewport" content="width=device-width"><style>body {{ margin: 12px }} {css}</style><main>{html}</main>')
        return page
    yield opened
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope='module')
def ask(browser):
    "Calls a function of the script with what JSON can say; numbers come back in double precision."
    page = browser.new_page()
    page.set_content(density_slider(three)._repr_mimebundle_()['text/html'])
    def asked(code, **given):
        given = {k: v.tolist() if torch.is_tensor(v) else v for k, v in given.items()}
        return page.evaluate('given => { const m = cfgSliders; with (given) return %s }' % code, given)
    yield asked
    page.close()


def doubles(found): return torch.tensor(found, dtype=torch.float64)


def said(mixture): return {k: getattr(mixture, k).tolist() for k in ('means', 'stds', 'weights')}


third = 2*np.pi/3
three = Mixture([[1.2*np.cos(np.pi/2 + k*third), 1.2*np.sin(np.pi/2 + k*third)] for k in range(3)], [.7, .7, .7])
gen = torch.Generator().manual_seed(0)
def randn(*shape): return torch.randn(*shape, dtype=torch.float64, generator=gen)
def rand(n, low, high): return low + (high-low)*torch.rand(n, dtype=torch.float64, generator=gen)


def mixtures(n):
    "Mixtures of one to five classes, of all widths and weights."
    for K in torch.randint(1, 6, (n,), generator=gen).tolist():
        yield Mixture(1.5*randn(K, 2), rand(K, .1, 1.5), rand(K, .1, 1.))


# The mathematics

def test_noise(ask):
    logsnr = rand(200, -25., 25.)
    found = doubles(ask('l.map(m.alphaSigma)', l=logsnr))
    assert_close(found, torch.stack(alpha_sigma(logsnr), 1), **EXACT)
    assert ask('m.alphaSigma(Infinity)') == [1, 0]
    for T in (2, 3, 64, 257):
        assert_close(doubles(ask('m.logsnrGrid(T)', T=T)), logsnr_grid(T), **EXACT)
    assert_close(doubles(ask('m.logsnrGrid(9, -3, 5)')), logsnr_grid(9, -3., 5.), **EXACT)


def test_mixture(ask):
    "Joint and class densities, guided ones and the noise, of many mixtures at many noise levels, near and far."
    code = 'zs.map((z, i) => { const at = m.noisy(mixture, l[i]); return [m.logJoint(at, z), %s] })'
    code %= 'cs.map(c => [m.logProb(at, z, c), ...m.eps(at, z, c)]), cs.slice(0, -1).map(c => m.guidedLogProb(at, z, c, w[i]))'
    for mixture in mixtures(20):
        K, zs, l, w = mixture.null, rand(30, .1, 5.)[:,None]*randn(30, 2), rand(30, -20., 20.), rand(30, -1., 4.)
        found = ask(code, mixture=said(mixture), zs=zs, l=l, w=w, cs=list(range(K+1)))
        assert_close(doubles([f[0] for f in found]), mixture.log_joint(zs, l), **EXACT)
        for c in range(K+1):
            label, each = torch.full((30,), c), doubles([f[1][c] for f in found])
            assert_close(each[:,0], mixture.log_prob(zs, l, label), **EXACT)
            assert_close(each[:,1:], mixture(zs, l, label), **EXACT)
            if c < K:
                of_w = torch.stack([guided_log_prob(mixture, zs[i:i+1], label[:1], w[i].item(), logsnr=l[i])[0] for i in range(30)])
                assert_close(doubles([f[2][c] for f in found]), of_w, **EXACT)


def test_guidance_and_steps(ask):
    a, b, n, w = randn(50, 2), randn(50, 2), randn(50, 2), rand(50, -1., 4.)
    found = ask('a.map((a, i) => m.guide(a, b[i], w[i]))', a=a, b=b, w=w)
    assert_close(doubles(found), guide(a, b, w), **EXACT)
    low = rand(50, -20., 18.)
    high = low + rand(50, .01, 20.)
    found = ask('a.map((a, i) => [m.ddimStep(a, b[i], l[i], h[i]), m.ancestralStep(a, b[i], l[i], h[i], n[i], v)])', a=a, b=b, l=low, h=high, n=n, v=.7)
    for i in range(50):
        at = dict(logsnr=low[i], logsnr_next=high[i])
        assert_close(doubles(found[i][0]), ddim_step(a[i], b[i], **at), **EXACT)
        assert_close(doubles(found[i][1]), ancestral_step(a[i], b[i], **at, noise=n[i], v=.7), **EXACT)


@pytest.mark.parametrize('noisy', [False, True], ids=['ddim', 'ancestral'])
def test_trajectory(ask, noisy):
    "Algorithm 2 and DDIM from end to end, by the package's own sampler; the guesses with and without a class on the way."
    T, n = 32, 10
    for mixture in mixtures(5):
        z, draws, w, c = randn(n, 2), randn(T, n, 2), rand(1, -1., 4.).item(), mixture.null - 1
        how = 'draws && ((t, i) => draws[t][i])'
        found = ask(f'm.trajectory(mixture, z, c, w, m.logsnrGrid(T), {how})', mixture=said(mixture), z=z, c=c, w=w, T=T, draws=draws if noisy else None)
        labels, step = torch.full((n,), c), dict(step=ancestral_step, noise=lambda t: draws[t]) if noisy else dict(step=ddim_step)
        expected = list(trajectory(guided(mixture, w, null=mixture.null), z, labels, T=T, clip=None, **step))
        for passed, (z_t, x_t), logsnr in zip(found, expected, logsnr_grid(T)):
            alpha, sigma = alpha_sigma(logsnr)
            none, cond = ((z_t - sigma*mixture(z_t, logsnr, torch.full((n,), k)))/alpha for k in (mixture.null, c))
            for key, value in dict(z=z_t, x=x_t, none=none, cond=cond).items():
                assert_close(doubles([p[key] for p in passed]), value, rtol=1e-6, atol=1e-6)


def test_draws(ask):
    "Pseudo-random numbers are normal and independent of their neighbours, and the same for a seed; the spiral lies as they do."
    drawn = np.array(ask('m.normals(20000, 3)'))
    assert ask('m.normals(5, 3)') == drawn[:5].tolist() != ask('m.normals(5, 4)')
    assert stats.kstest(drawn.ravel(), 'norm').pvalue > 1e-3
    pairs = (drawn[:,0], drawn[:,1]), (drawn[1:,0], drawn[:-1,1]), (drawn[1:,0]**2, drawn[:-1,0]**2)
    assert all(abs(np.corrcoef(a, b)[0,1]) < 4/20000**.5 for a, b in pairs)
    even = np.array(ask('m.spiral(500)'))
    radii = stats.chi(2).ppf((np.arange(500) + .5)/500)
    np.testing.assert_allclose(np.linalg.norm(even, axis=1), radii, rtol=1e-9)
    assert np.abs(even.mean(0)).max() < .02 and np.abs(np.cov(even.T) - np.eye(2)).max() < .02


@pytest.mark.parametrize('w', [-1., 0., .35, 4.])
def test_densities(ask, w):
    "The density on the grid, the height above which 95% of it lies, and the line of that height."
    found = ask('[0, 1, 2].map(c => { const d = m.density(mixture, c, w), h = m.level(d.values); return [d.values, d.constant, h, m.contour(d.values, h)] })',
                mixture=said(three), w=w)
    expected, points, cell = guided_densities(three, w)
    for c, (values, constant, height, lines) in enumerate(found):
        here = doubles(values).view(64, 64).flip(0).flatten()      # the page counts rows upwards
        assert_close(here, expected[c], rtol=1e-6, atol=1e-9)
        log_p = guided_log_prob(three, points, torch.full((len(points),), c), w, logsnr=INF)
        assert_close(constant, log_p.logsumexp(0).item() + np.log(cell), **EXACT)
        held = [(expected[c][expected[c] > height*(1+d)].sum()*cell).item() for d in (1e-9, -1e-9)]
        assert held[0] < .95 <= held[1]                                         # with the cells of that very height, and without
        ends = doubles(lines).view(-1, 2)
        on_line = (guided_log_prob(three, ends, torch.full((len(ends),), c), w, logsnr=INF) - constant).exp()
        assert len(lines) > 30 and (on_line/height - 1).abs().max() < .1      # linear between the points of the grid
        met = Counter((round(x, 9) + 0., round(y, 9) + 0.) for line in lines for x, y in line)
        assert all(n % 2 == 0 for n in met.values())                            # the line is closed


def numbers_of(w, sampler, ask, T=64, each=120):
    "What the table under the densities must say, by the package alone but for the page's own noise."
    starts, noise = doubles(ask(f'm.spiral({each})')), doubles(ask(f'm.normals({each*T}, 1)')).view(T, each, 2)
    how = dict(step=ddim_step) if sampler == 'DDIM' else dict(noise=lambda t: noise[t])
    fine = torch.linspace(-4, 4, 202, dtype=torch.float64)[:-1] + 4/201
    points = torch.cartesian_prod(fine, fine)
    rows = {'density': [], 'samples': []}
    for c in range(3):
        p = guided_log_prob(three, points, torch.full((len(points),), c), w, logsnr=INF).softmax(0)
        x = sample(guided(three, w, null=3), starts, torch.full((each,), c), T=T, clip=None, **how)
        middle, outwards = p @ points, three.means[c]/three.means[c].norm()
        for name, xs, share in (('density', points, p), ('samples', x, torch.full((each,), 1/each, dtype=torch.float64))):
            mean = share @ xs
            beyond = (xs @ outwards > middle @ outwards).double()
            rows[name].append([mean.norm(), (share @ (xs-mean)**2).mean().sqrt(), share @ beyond])
    return {name: doubles(found).mean(0).tolist() for name, found in rows.items()}


def table(page):
    "The numbers of the table, {name: [numbers]}."
    rows = page.evaluate("[...document.querySelectorAll('tbody tr')].map(row => [...row.children].map(cell => cell.textContent))")
    return {name: [float(t.strip('%'))/(100 if '%' in t else 1) for t in texts] for name, *texts in rows}


def settled(page):
    "Wait until what was asked for is drawn."
    page.evaluate('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')


def pixels(page, k=0):
    "What a canvas shows, as one string."
    return page.evaluate("k => document.querySelectorAll('canvas')[k].toDataURL()", k)


def put(page, value, k=0):
    "Set a slider, as a hand would."
    page.locator('input[type=range]').nth(k).fill(str(value))
    settled(page)


@pytest.mark.parametrize('w', [-1., 0., .35, 4.])
@pytest.mark.parametrize('sampler', ['DDIM', 'Algorithm 2'])
def test_density_numbers(ask, show, sampler, w):
    "What the table says is what the package computes; the words for who cannot see say the same."
    page = show(density_slider(three, w=w))
    page.get_by_label('sampler').select_option(sampler)
    found, expected = table(page), numbers_of(w, sampler, ask)
    for name in ('density', 'samples'):
        for here, there, tolerance in zip(found[name], expected[name], (.006, .006, .011)):
            assert abs(here-there) < tolerance, (name, found, expected)
    left, right = page.get_by_role('img').all()
    assert f"mean {expected['samples'][0]:.2f} from the centre" in right.get_attribute('aria-label')
    assert f'What {sampler} makes' in right.get_attribute('aria-label') and f'w = {w:g}' in left.get_attribute('aria-label')


# Under the hand

def test_keys_move_it(show):
    "Arrows, Home and End: the words, the numbers and both pictures change, and come back."
    page = show(density_slider(three, w=0))
    slider, output = page.get_by_label('strength w'), page.locator('output')
    first, numbers = [pixels(page, 0), pixels(page, 1)], table(page)
    slider.focus()
    seen = {first[0]}
    for key, value, words in (('ArrowRight', .05, '0.05'), ('End', 4, '4.00'), ('Home', -1, '−1.00, no class'), ('ArrowUp', -.95, '−0.95')):
        slider.press(key)
        settled(page)
        assert float(slider.input_value()) == value
        assert output.inner_text() == slider.get_attribute('aria-valuetext') == words
        here = [pixels(page, 0), pixels(page, 1)]
        assert here[0] not in seen and here[1] != first[1] and table(page) != numbers
        seen.add(here[0])
    put(page, 0)
    assert [pixels(page, 0), pixels(page, 1)] == first and table(page) == numbers
    assert output.inner_text() == '0.00, no guidance'


def test_a_hand_moves_it(show):
    "A drag by mouse, and a finger: the thumb follows."
    for how in (dict(), dict(has_touch=True, is_mobile=True)):
        page = show(density_slider(three, w=0), **how)
        slider, before = page.get_by_label('strength w'), pixels(page, 1)
        box = slider.bounding_box()
        y, far = box['y'] + box['height']/2, box['x'] + box['width'] - 1
        if how:
            page.touchscreen.tap(far, y)
        else:
            page.mouse.move(box['x'] + box['width']*.2, y)
            page.mouse.down()
            page.mouse.move(box['x'] + box['width']*.6, y)
            settled(page)
            assert 1 < float(slider.input_value()) < 3 and pixels(page, 1) != before
            page.mouse.move(far, y)
            page.mouse.up()
        settled(page)
        assert slider.input_value() == '4' and page.locator('output').inner_text() == '4.00'
        assert pixels(page, 1) != before and table(page)['samples'][0] > 2
        assert box['height'] >= 24                                # what a finger can meet


def colours(page, points, k=0):
    "The colours of a canvas at points of the square from -4 to 4, (N,3)."
    found = page.evaluate("""([points, k]) => {
        const shown = document.querySelectorAll('canvas')[k], {width, height} = shown;
        const copy = Object.assign(document.createElement('canvas'), {width, height});
        const brush = copy.getContext('2d', {willReadFrequently: true});
        brush.fillStyle = 'magenta';                              // what nothing has been drawn on
        brush.fillRect(0, 0, width, height);
        brush.drawImage(shown, 0, 0);
        return points.map(([x, y]) => [...brush.getImageData((x/4 + 1)/2*width, (1 - y/4)/2*height, 1, 1).data].slice(0, 3)) }""", [points.tolist(), k])
    return doubles(found)


LIGHT, DARK = ('#ffffff', '#3b5bdb', '#e8590c', '#2b8a3e'), ('#101113', '#91a7ff', '#ffa94d', '#69db7c')
VARIABLES = ' '.join(f'--{name}: {value};' for name, value in zip(('ground', 'accent', 'paper', 'leaf'), DARK))


@pytest.mark.parametrize('w', [-.5, 2.])
def test_the_picture_is_the_density(show, w):
    "Colours at 40 places, on light and on dark ground: the inks of the classes, as deep as the density there."
    page = show(density_slider(three, w=0), css=f'.dark {{ {VARIABLES} }}')
    put(page, w)
    fine = torch.linspace(-4, 4, 202, dtype=torch.float64)[:-1] + 4/201
    points, at = torch.cartesian_prod(fine, fine), torch.cat([1.1*randn(40, 2), torch.tensor([[-3.9, 3.9]])])
    labels = [torch.full((len(points),), c) for c in range(3)]
    constants = [guided_log_prob(three, points, c, w, logsnr=INF).logsumexp(0) + np.log((8/201)**2) for c in labels]
    p = torch.stack([(guided_log_prob(three, at, c[:len(at)], w, logsnr=INF) - z).exp() for c, z in zip(labels, constants)])/3
    for dark, names in ((False, LIGHT), (True, DARK)):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        settled(page)
        ground, *inks = (doubles(list(bytes.fromhex(name[1:]))) for name in names)
        mixed = (p/p.sum(0)).T @ torch.stack(inks)
        expected = ground + (1 - (-12*p.sum(0)[:,None]).exp())*(mixed-ground)
        found = colours(page, at)
        apart = (found-expected).abs().amax(1)                    # all but those on a line
        assert apart.median() < 3 and (apart < 8).sum() >= 30, (found, expected)
        assert_close(found[-1], ground)


def test_samples_are_where_they_are(show, ask):
    "Each sample of the page is a dot of its class's colour where our sampler puts it."
    page = show(density_slider(three, w=0, each=30))
    put(page, 3.)
    starts, right = doubles(ask('m.spiral(30)')), 0
    for c in range(3):
        xs = sample(guided(three, 3., null=3), starts, torch.full((30,), c), T=64, clip=None, step=ddim_step)
        right += (colours(page, xs, k=1) == doubles(list(bytes.fromhex(LIGHT[c+1][1:])))).all(1).sum()
    assert right >= 85                                            # a line may cross some


# The same images over w

strengths = project.root/'results'/'strengths'


def garments(**how): return image_slider(strengths, 'Garments', **how)


@pytest.fixture(scope='module')
def kept():
    "The images of the figure, by another road: {w: (n,28,28)}, as shares of white."
    about, picture = json.loads((strengths/'strengths.json').read_text()), plt.imread(strengths/'images.png')
    rows = picture.reshape(len(about['w']), 28, about['n'], 28)
    return {w: row.transpose(1, 0, 2) for w, row in zip(about['w'], rows)}


def drawn(page, n, side, columns):
    "The images on the canvas, (n,side,side), as shares of ink on white, each pixel looked at in its middle."
    found = page.evaluate("""([n, side, columns]) => {
        const {width, height} = document.querySelector('canvas'), copy = Object.assign(document.createElement('canvas'), {width, height});
        const brush = copy.getContext('2d', {willReadFrequently: true}), of = width/document.querySelector('canvas').clientWidth;
        brush.drawImage(document.querySelector('canvas'), 0, 0);
        const {data} = brush.getImageData(0, 0, width, height), size = document.querySelector('canvas').clientWidth/columns;
        const at = (k, i) => (k*size + (i + .5)/side*(size - 2))*of | 0, found = [];
        for (let k = 0; k < n; k++) for (let y = 0; y < side; y++) for (let x = 0; x < side; x++)
            found.push(data[4*(at(k/columns | 0, y)*width + at(k % columns, x))]);
        return found }""", [n, side, columns])
    return (255 - np.array(found).reshape(n, side, side))/(255 - 0x21)


@pytest.mark.parametrize('w', [-1., 0., .3, 1.3, 2.7, 4.])
def test_images(show, kept, w):
    "The images shown are those of w, of all strengths those that fit best; the number below is theirs."
    page = show(garments())
    put(page, w)
    page.wait_for_function("document.querySelector('.note').textContent")
    here = drawn(page, 20, 28, 10)
    apart = {v: np.abs(here - images).mean() for v, images in kept.items()}
    assert min(apart, key=apart.get) == w and apart[w] < .03
    pairs = kept[w][:10] - kept[w][10:]
    expected = f'differ by {(pairs**2).mean()**.5:.3f} a pixel, in the root mean square'
    assert expected in page.locator('.note').inner_text() and expected in page.get_by_role('img').get_attribute('aria-label')
    assert f'w = {w:g}.' in page.get_by_role('img').get_attribute('aria-label')
    assert page.locator('output').inner_text() == f'{w:.2f}'.replace('-', '−') + {-1: ', no class', 0: ', no guidance'}.get(w, '')


def test_images_by_keys_and_motion(show, kept):
    "Each key is one strength of the picture; where it is wanted, the images go through them by themselves, and only there."
    page = show(garments(w=0.))
    slider = page.get_by_label('strength w')
    slider.press('ArrowRight')
    settled(page)
    assert float(slider.input_value()) == .1 and np.abs(drawn(page, 20, 28, 10) - kept[.1]).mean() < .03
    for motion, goes in (('no-preference', True), ('reduce', False)):
        page = show(garments(moves=True), reduced_motion=motion)
        moved(page, goes)


def moved(page, goes):
    "A slider that stood at 1 has moved; or it has not, after a while."
    if goes:
        page.wait_for_function("document.querySelector('input').value != 1")
    page.wait_for_timeout(1000)
    assert (page.get_by_label('strength w').input_value() != '1') == goes


# The curve

tables = project.root/'results'/'fashion'/'table1-sde_dpmpp_2m'
P = '0.1', '0.2', '0.5'


def cells():
    "The rows behind the curve, as they stand in the files: {p_uncond: {w: row}}."
    found = {p: list(csv.DictReader((tables/f'p{p}'/'cells.csv').open())) for p in P}
    return {p: {float(row['w']): {k: float(row[k]) for k in ('is_mean', 'fd', 'precision', 'recall')} for row in rows} for p, rows in found.items()}


def curve(**how):
    rows = [row for p in P for row in read_csv(tables/f'p{p}'/'cells.csv')]
    return curve_slider(rows, 'garments', dict(x=[8, 8.5, 9, 9.5, 10], y=[2.5, 5, 10, 25]), **how)


def test_curve(show):
    "The numbers are those of the files, and the large dot goes where they say: across by IS, down by the logarithm of FD."
    page, at, places, scores = show(curve()), cells(), [], []
    ws = sorted(at['0.1'])
    for w in (0, .2, .5, 1, 2, 4):
        put(page, ws.index(w))
        assert page.locator('output').inner_text().startswith(f'{w:.2f}')
        for p, found in zip(P, table(page).items()):
            row = at[p][w]
            assert found[0] == f'p_uncond = {p}'
            for here, there in zip(found[1], row.values()):
                assert abs(here-there) <= .0051, (w, p, found)
        label = page.get_by_role('img').get_attribute('aria-label')
        assert f"At w = {w:g}: p_uncond = 0.1, IS {at['0.1'][w]['is_mean']:.2f}, FD {at['0.1'][w]['fd']:.2f};" in label
        places.append(large_dot(page, LIGHT[3]))
        scores.append([at['0.5'][w]['is_mean'], np.log(at['0.5'][w]['fd'])])
    page.get_by_label('strength w').press('ArrowLeft')
    settled(page)
    assert page.locator('output').inner_text() == '3.00'
    places, scores = np.array(places), np.array(scores)
    for axis, sign in ((0, 1), (1, -1)):
        slope, start = np.polyfit(scores[:,axis], places[:,axis], 1)
        assert sign*slope > 0 and np.abs(start + slope*scores[:,axis] - places[:,axis]).max() < 1.5
    assert places[-1,0] - places[0,0] > 300


def image_of(page, k=0):
    "A canvas as numbers, (H,W,4)."
    return plt.imread(io.BytesIO(base64.b64decode(pixels(page, k).split(',')[1])))*255


def large_dot(page, ink, k=0, radius=4):
    "The middle of the largest dot of a colour: of what is left when its edge is taken off, in pixels across and down."
    from scipy.ndimage import binary_erosion, label
    same = (np.abs(image_of(page, k)[...,:3] - list(bytes.fromhex(ink[1:]))).max(-1) < 3)
    parts, n = label(binary_erosion(same, iterations=radius))
    assert n, f'no dot of {ink}'
    largest = np.bincount(parts.flatten())[1:].argmax() + 1
    y, x = np.nonzero(parts == largest)
    return x.mean(), y.mean()


# One trajectory

def test_path(show, ask):
    "At each log-SNR: the push of guidance, how sure the classifier is, and where z and the guesses are, by the package."
    page, point, T, w, c = show(path_slider(three, w=1.)), 44, 64, 1.5, 0
    put(page, w, k=1)
    starts, labels = doubles(ask('m.spiral(60)')), torch.full((60,), c)
    passed = list(trajectory(guided(three, w, null=3), starts, labels, T=T, clip=None, step=ddim_step))
    lines = []
    for t in (0, 12, 21, 30, 63):
        put(page, t)
        lines.append((np.abs(image_of(page, 1)[...,:3] - list(bytes.fromhex('6c757d'))).max(-1) < 12).sum())
        logsnr, (z, x) = logsnr_grid(T)[t], passed[t]
        alpha, sigma = alpha_sigma(logsnr)
        assert page.locator('output').first.inner_text() == f'{logsnr:.1f}'.replace('-', '−')
        none, cond = ((z - sigma*three(z, logsnr, torch.full((60,), k)))/alpha for k in (3, c))
        pushes, sure = (x-cond).norm(dim=1), three.classifier(z, logsnr)[:,c].exp()
        assert_close((x-cond), w*(cond-none), rtol=1e-6, atol=1e-6)
        found = table(page)
        for name, push, share in (('this point', pushes[point], sure[point]), ('mean of all', pushes.mean(), sure.mean())):
            assert abs(found[name][0]-push) < .006 and abs(found[name][1]-share) < .006, (t, found)
        label = page.get_by_role('img').nth(1).get_attribute('aria-label')
        assert f'({x[point,0]:.2f}, {x[point,1]:.2f})'.replace('-0.00', '0.00') in label.replace('-0.00', '0.00') and f'by {pushes[point]:.2f}.' in label
        if t == 12:                                               # the arrow: its head is at the guided guess; and hollow is hollow
            of, turn = 8/page.evaluate("document.querySelectorAll('canvas')[1].clientWidth"), np.pi - 2.6
            away = (cond[point]-x[point])/pushes[point]
            barbs = [x[point] + 5*of*torch.stack([away[0]*a - away[1]*b, away[1]*a + away[0]*b]) for a, b in [(np.cos(s*turn), np.sin(s*turn)) for s in (1, -1)]]
            assert colours(page, torch.stack(barbs), k=1).max() < 140
            assert colours(page, none[point:point+1], k=1).min() == 255
        for k, place, ink in ((0, z[point], '#212529'), (1, cond[point], LIGHT[1])):
            wide = image_of(page, k).shape[1]
            across, down = large_dot(page, ink, k)
            assert abs(across - (place[0]/4+1)/2*wide) < 3 and abs(down - (1-place[1]/4)/2*wide) < 3, (t, k)
    assert lines[0] < 20 < lines[1]-lines[0] < lines[2]-lines[0] < lines[3]-lines[0]      # the line of the guesses


def test_no_guess_is_drawn_before_its_time(show, ask):
    "Without guidance there is no arrow on it: of the line of guesses only what has been passed."
    page = show(path_slider(three, w=-1.))
    starts = doubles(ask('m.spiral(60)'))[44:45]
    passed = [x[0] for _, x in trajectory(guided(three, -1., null=3), starts, torch.zeros(1, dtype=int), T=64, clip=None, step=ddim_step)]
    for t in (8, 21, 30):
        put(page, t)
        before, after = (colours(page, passed[k][None], k=1)[0] for k in (t-8, t+8))
        put(page, 63)
        later = colours(page, passed[t+8][None], k=1)[0]
        assert (before - doubles([0x6c, 0x75, 0x7d])).abs().max() < 40 and (after-later).abs().max() > 40, t


def test_push_at_the_ends(show):
    "In nothing but noise it is w times the way from the mean of all to that of the class, and at the end nothing."
    page = show(path_slider(three, w=2.))
    time = page.get_by_label('log-SNR λ')
    time.press('Home')
    settled(page)
    assert table(page)['this point'][0] == table(page)['mean of all'][0] == round(2*1.2, 2)
    time.press('End')
    settled(page)
    assert table(page)['mean of all'][0] == 0 and page.locator('output').first.inner_text() == '20.0'
    before = pixels(page, 1)
    time.press('ArrowLeft')
    settled(page)
    assert page.locator('output').first.inner_text() != '20.0' and pixels(page, 1) != before


# Still, where motion is not welcome

def test_nothing_moves_by_itself_unless_wanted(show):
    "Where it is asked for, and motion is not reduced, it goes once; the button does what it says, everywhere."
    for moves, motion, goes in ((True, 'no-preference', True), (True, 'reduce', False), (False, 'no-preference', False)):
        page = show(density_slider(three, w=1, moves=moves, each=5), reduced_motion=motion)
        moved(page, goes)
        assert page.get_by_role('button').inner_text() == ('pause' if goes else 'play')


def test_the_button(show):
    page = show(density_slider(three, w=1, each=5))
    button, slider, output = page.get_by_role('button'), page.get_by_label('strength w'), page.locator('output')
    button.click()
    page.wait_for_function("document.querySelector('input').value > 1.3")
    assert button.inner_text() == 'pause' and output.get_attribute('aria-live') == 'off'
    button.click()
    here = slider.input_value()
    page.wait_for_timeout(300)
    assert slider.input_value() == here and button.inner_text() == 'play' and output.get_attribute('aria-live') == 'polite'
    button.click()
    page.wait_for_timeout(200)
    slider.press('End')                                           # who takes the slider has it
    page.wait_for_timeout(300)
    assert slider.input_value() == '4' and button.inner_text() == 'play'


# Where it stands

def figures():
    "One of each kind."
    return [density_slider(three), garments(), curve(), path_slider(three)]


@pytest.mark.parametrize('width', [390, 678, 778])
def test_it_fits(show, width):
    "No page scrolls sideways, nothing is cut off, and letters can be read."
    page = show(*figures(), width=width)
    settled(page)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    parts = page.evaluate("[...document.querySelectorAll('.cfg-slider *')].map(e => [e.tagName, e.getBoundingClientRect()]).map(([tag, b]) => [tag, b.left, b.right])")
    assert not [part for part in parts if part[1] < 0 or part[2] > width] and len(parts) > 60
    sizes = page.evaluate("[...document.querySelectorAll('.cfg-slider *')].filter(e => e.innerText).map(e => parseFloat(getComputedStyle(e).fontSize))")
    assert min(sizes) >= 10
    wide = page.evaluate("[...document.querySelectorAll('canvas')].map(e => e.clientWidth)")
    assert len(wide) == 6 and min(wide) > .38*width


def test_without_scripts(show):
    "A picture and a sentence stand there, and nothing that cannot be used; with scripts these are gone."
    figure = density_slider(three)
    page = show(figure, java_script_enabled=False)
    assert page.get_by_text('Where scripts run, this figure moves.').is_visible()
    assert page.get_by_alt_text(figure.words).bounding_box()['width'] > 200 and not page.locator('input').count()
    page = show(figure)
    assert not page.locator('img').count() and page.locator('input').count() == 1
    assert figure._repr_mimebundle_()['text/plain'] == figure.words and figure.still[1:4] == b'PNG'


def test_one_runtime(show):
    "Several figures on a page, one script and one style; each slider moves its own."
    mark = SimpleNamespace(_repr_mimebundle_=lambda: {'text/html': '<script>first = cfgSliders</script>'})
    page = show(density_slider(three, w=0), mark, density_slider(three, w=2))
    assert page.evaluate('document.querySelectorAll("style[data-cfg-slider]").length') == 1
    assert page.evaluate('document.querySelectorAll("input").length') == 2
    ids = page.evaluate('[...document.querySelectorAll("[id]")].map(e => e.id)')
    assert len(ids) == len(set(ids)) == 2
    second = pixels(page, 2)
    put(page, 2., k=0)
    assert pixels(page, 0) == pixels(page, 2) == second
    assert page.evaluate('first === cfgSliders')


def test_words_for_all(show):
    "Every control has a name, every picture words, and what changes is said when there is time."
    page = show(*figures())
    assert page.evaluate("[...document.querySelectorAll('input, select')].every(e => e.labels.length || e.ariaLabel)")
    assert page.evaluate("[...document.querySelectorAll('canvas')].every(e => e.getAttribute('role') == 'img' && e.ariaLabel.length > 30)")
    assert page.evaluate("[...document.querySelectorAll('output, table')].every(e => e.getAttribute('aria-live') == 'polite')")


def test_the_page_is_light():
    "What a reader loads stays under three megabytes, and the script is a small part of it."
    assert (project.root/'nbs/38_sliders.ipynb').stat().st_size < 3e6
    script = (project.package/'sliders.js').read_text(encoding='utf-8')
    assert max(map(len, script.splitlines())) <= 88 and len(script) < 40_000
    assert not [word for word in ('import(', 'require(', 'fetch(', 'http:', 'https:', 'eval(') if word in script]
