// Guidance that moves: sliders for a page without kernel, network or library.
// cfg_repro.sliders puts this file into what a cell shows; one copy a page runs.
window.cfgSliders ??= (() => {
"use strict";

// ---- Noise: logsnr is the paper's lambda, as in cfg_repro.schedule

const sigmoid = x => 1/(1 + Math.exp(-x));

function alphaSigma(logsnr) {
  return [Math.sqrt(sigmoid(logsnr)), Math.sqrt(sigmoid(-logsnr))];
}

function logsnrGrid(T, low = -20, high = 20) {
  const b = Math.atan(Math.exp(-high/2));
  const a = Math.atan(Math.exp(-low/2)) - b;
  const at = t => -2*Math.log(Math.tan(a*(1 - t/(T-1)) + b));
  return Array.from({length: T}, (_, t) => at(t));
}

// ---- The mixture: an exact model, as in cfg_repro.mixture. z is [x, y];
// a class is 0 to K-1, and K, the null class, stands for none

// The mixture at one log-SNR: of each class its mean, its variance, its logarithms
function noisy(mixture, logsnr) {
  const [alpha, sigma] = alphaSigma(logsnr);
  const classes = mixture.means.map((mean, k) => {
    const v = (alpha*mixture.stds[k])**2 + sigma**2;
    const prior = Math.log(mixture.weights[k]);
    return {mean: mean.map(m => alpha*m), v, prior, top: prior - Math.log(2*Math.PI*v)};
  });
  return {classes, alpha, sigma, none: classes.length};
}

function logSumExp(logs) {
  let top = -Infinity, sum = 0;
  for (const log of logs) top = Math.max(top, log);
  for (const log of logs) sum += Math.exp(log - top);
  return top + Math.log(sum);
}

// log p(z, c) of each class
function logJoint({classes}, [x, y]) {
  return classes.map(({mean, v, top}) =>
    top - ((x - mean[0])**2 + (y - mean[1])**2)/(2*v));
}

function logProb(at, z, c) {
  const joint = logJoint(at, z);
  return c === at.none ? logSumExp(joint) : joint[c] - at.classes[c].prior;
}

// log p(z|c) + w log p(c|z), up to a constant: what guidance is said to sample
function guidedLogProb(at, z, c, w) {
  const joint = logJoint(at, z), sure = joint[c] - logSumExp(joint);
  return joint[c] - at.classes[c].prior + w*sure;
}

// The noise in z, predicted exactly: -sigma times the gradient of log p(z|c)
function eps(at, z, c) {
  const sum = [0, 0], add = ({mean, v}, share) => {
    sum[0] += at.sigma*share/v*(z[0] - mean[0]);
    sum[1] += at.sigma*share/v*(z[1] - mean[1]);
  };
  if (c !== at.none) { add(at.classes[c], 1); return sum; }
  const joint = logJoint(at, z), whole = logSumExp(joint);
  at.classes.forEach((part, k) => add(part, Math.exp(joint[k] - whole)));
  return sum;
}

// ---- Guidance and the samplers

const both = (f, a, b, c = a) => [f(a[0], b[0], c[0]), f(a[1], b[1], c[1])];

// Eq. (6)
function guide(epsCond, epsUncond, w) {
  return both((cond, uncond) => (1+w)*cond - w*uncond, epsCond, epsUncond);
}

// What z is taken for: without a class, with it, and guided
function guesses(at, z, c, w) {
  const cond = eps(at, z, c), uncond = eps(at, z, at.none);
  const clean = noise => both((z, e) => (z - at.sigma*e)/at.alpha, z, noise);
  return [uncond, cond, guide(cond, uncond, w)].map(clean);
}

// The same x and the same noise at the next log-SNR
function ddimStep(z, x, logsnr, next) {
  const keep = alphaSigma(next)[1]/alphaSigma(logsnr)[1];
  const share = -Math.expm1((logsnr - next)/2)*alphaSigma(next)[0];
  return both((z, x) => keep*z + share*x, z, x);
}

// Algorithm 2, line 5: a draw from Eq. (4)
function ancestralStep(z, x, logsnr, next, noise, v = 0.3) {
  const [alpha, sigma] = alphaSigma(logsnr);
  const [alphaNext, sigmaNext] = alphaSigma(next);
  const left = -Math.expm1(logsnr - next);
  const keep = (1 - left)*alphaNext/alpha;
  const std = Math.sqrt(left)*sigmaNext**(1-v)*sigma**v;
  return both((z, x, n) => keep*z + left*alphaNext*x + std*n, z, x, noise);
}

// Algorithm 2 for many points: all that it passes, for each log-SNR. Where there is no
// noise(t, i), of step t = 1, 2, ... and point i, the steps are those of DDIM
function trajectory(mixture, zs, c, w, logsnrs, noise = null) {
  return logsnrs.map((logsnr, t) => {
    const at = noisy(mixture, logsnr), next = logsnrs[t+1];
    const here = zs.map(z => [z, ...guesses(at, z, c, w)]);
    const step = ([z, , , x], i) => noise
      ? ancestralStep(z, x, logsnr, next, noise(t+1, i)) : ddimStep(z, x, logsnr, next);
    if (next !== undefined) zs = here.map(step);
    return here.map(([z, none, cond, x]) => ({logsnr, z, none, cond, x}));
  });
}

const sample = (...how) => trajectory(...how).at(-1).map(last => last.x);

// n pairs of normal numbers, the same ones for a seed: mulberry32, Box-Muller
function normals(n, seed) {
  const uniform = () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5)/2**32;
  };
  return Array.from({length: n}, () => {
    const far = Math.sqrt(-2*Math.log(uniform())), angle = 2*Math.PI*uniform();
    return [far*Math.cos(angle), far*Math.sin(angle)];
  });
}

// n points that lie as N(0, I) does, as evenly as points can: a sunflower
function spiral(n) {
  return Array.from({length: n}, (_, i) => {
    const far = Math.sqrt(-2*Math.log(1 - (i + 0.5)/n));
    const angle = i*Math.PI*(3 - Math.sqrt(5));
    return [far*Math.cos(angle), far*Math.sin(angle)];
  });
}

const maths = {alphaSigma, logsnrGrid, noisy, logSumExp, logJoint, logProb,
               guidedLogProb, eps, guide, guesses, ddimStep, ancestralStep,
               trajectory, sample, normals, spiral};

// ---- Densities on a square grid

const EXTENT = 4, CELLS = 64, SIDE = 2*EXTENT/CELLS;   // from -4 to 4 both ways

const centre = i => EXTENT*((2*i + 1)/CELLS - 1);
const cells = Array.from({length: CELLS**2}, (_, i) =>
  [centre(i % CELLS), centre(Math.floor(i/CELLS))]);

// The guided density of a class: its values, row by row, and log of their constant
function density(mixture, c, w, logsnr = Infinity) {
  const at = noisy(mixture, logsnr), logs = cells.map(z => guidedLogProb(at, z, c, w));
  const constant = logSumExp(logs) + 2*Math.log(SIDE);
  return {values: logs.map(log => Math.exp(log - constant)), constant};
}

// The density above which a share of the whole lies
function level(values, share = 0.95) {
  const falling = [...values].sort((a, b) => b - a);
  const enough = share/SIDE**2;
  let sum = 0;
  return falling.find(p => (sum += p) >= enough);
}

const total = numbers => numbers.reduce((a, b) => a + b, 0);

// The mean of points, and how far they lie around it, in the mean of both directions
function moments(points, weights = points.map(() => 1)) {
  const whole = total(weights);
  const over = f => total(points.map((p, i) => weights[i]*f(p)))/whole;
  const mean = [over(p => p[0]), over(p => p[1])];
  const around = over(p => (p[0] - mean[0])**2 + (p[1] - mean[1])**2);
  return {mean, spread: Math.sqrt(around/2)};
}

// The lines of one height, as pairs of points: marching squares
function contour(values, height) {
  const lines = [], corners = [[0, 0], [1, 0], [1, 1], [0, 1]];
  const value = (i, j) => values[j*CELLS + i];
  for (let j = 0; j < CELLS-1; j++) for (let i = 0; i < CELLS-1; i++) {
    const cuts = [];
    corners.forEach(([a, b], k) => {
      const [c, d] = corners[(k+1) % 4];
      const p = value(i+a, j+b) - height, q = value(i+c, j+d) - height;
      if ((p < 0) === (q < 0)) return;
      const t = p/(p - q);
      cuts.push([centre(i + a + t*(c-a)), centre(j + b + t*(d-b))]);
    });
    for (let k = 0; k < cuts.length; k += 2) lines.push([cuts[k], cuts[k+1]]);
  }
  return lines;
}

// ---- Looks: the page's own colours, and the parts that all figures are made of

const STYLE = `
.cfg-slider { margin: 1.4rem 0; padding: .8rem; color: var(--ink, #212529);
  background: var(--ground, #fff); border: 1px solid var(--line, #dee2e6);
  border-radius: .5rem; font-size: .92em; line-height: 1.45; }
.cfg-slider .panels { display: flex; gap: .8rem; align-items: flex-end; }
.cfg-slider .panel { flex: 1; min-width: 0; margin: 0; }
.cfg-slider select { font: inherit; color: inherit; background: inherit;
  border: 1px solid var(--line, #dee2e6); border-radius: .3rem; }
.cfg-slider .title { color: var(--quiet, #6c757d); margin-bottom: .25rem; }
.cfg-slider canvas { display: block; width: 100%; }
.cfg-slider .row { display: flex; align-items: center; gap: .7rem; margin-top: .5rem; }
.cfg-slider input[type=range] { flex: 1; min-width: 0; height: 2rem; margin: 0;
  accent-color: var(--accent, #3b5bdb); cursor: pointer; touch-action: pan-y; }
.cfg-slider output { min-width: 7.5em; font-variant-numeric: tabular-nums; }
.cfg-slider button { font: inherit; color: inherit; background: none; cursor: pointer;
  border: 1px solid var(--line, #dee2e6); border-radius: .4rem;
  padding: .1rem .6rem; min-width: 4.2em; }
.cfg-slider table { width: 100%; margin: .5rem 0 0; border-collapse: collapse;
  font-variant-numeric: tabular-nums; color: inherit; }
.cfg-slider th, .cfg-slider td { padding: .15rem .3rem; text-align: right;
  font-weight: normal; border: 0; background: none; color: inherit; }
.cfg-slider th:first-child { text-align: left; }
.cfg-slider thead th { color: var(--quiet, #6c757d); }
.cfg-slider [data-curve="0"] { color: var(--accent, #3b5bdb); }
.cfg-slider [data-curve="1"] { color: var(--paper, #e8590c); }
.cfg-slider [data-curve="2"] { color: var(--leaf, #2b8a3e); }
.cfg-slider tr { border: 0; background: none; vertical-align: bottom; }
.cfg-slider .note { margin: .5rem 0 0; font-variant-numeric: tabular-nums; }
.cfg-slider .names { display: flex; font-size: .72em; text-align: center;
  color: var(--quiet, #6c757d); }
.cfg-slider .names span { flex: 1; min-width: 0; }
@media (max-width: 560px) { .cfg-slider .names { display: none; }
  .cfg-slider .row { flex-wrap: wrap; }
  .cfg-slider input[type=range] { order: 1; flex: 1 0 100%; }
  .cfg-slider output { flex: 1; } }`;

const calm = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

function element(parent, tag, properties = {}, text = '') {
  const made = document.createElement(tag);
  for (const name in properties) made.setAttribute(name, properties[name]);
  made.textContent = text;
  parent.append(made);
  return made;
}

const blank = (width, height) =>
  Object.assign(document.createElement('canvas'), {width, height});

// A colour of CSS as three numbers
function rgb(colour) {
  const brush = rgb.brush ??= blank(1, 1).getContext('2d', {willReadFrequently: true});
  brush.fillStyle = colour;
  brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

function colours(figure) {
  const style = getComputedStyle(figure);
  const of = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  return {ink: of('--ink', '#212529'), quiet: of('--quiet', '#6c757d'),
          line: of('--line', '#dee2e6'), ground: of('--ground', '#fff'),
          classes: [of('--accent', '#3b5bdb'), of('--paper', '#e8590c'),
                    of('--leaf', '#2b8a3e')]};
}

// A titled canvas whose words change with what it shows
function panel(parent, title, ratio = 1) {
  const box = element(parent, 'div', {class: 'panel'});
  const name = element(box, 'div', {class: 'title'}, title);
  const canvas = element(box, 'canvas', {role: 'img'});
  return {name, canvas, ratio};
}

// A brush for a panel, cleared; it draws in a square of -4 to 4, or in pixels
function brushOf({canvas, ratio}) {
  const dense = Math.max(2, devicePixelRatio), width = canvas.clientWidth || 320;
  canvas.width = width*dense;
  canvas.height = width*ratio*dense;
  canvas.style.aspectRatio = `${1/ratio}`;
  const brush = canvas.getContext('2d');
  brush.scale(dense, dense);
  return Object.assign(brush, {wide: width, high: width*ratio});
}

const place = (brush, [x, y]) =>
  [(x/EXTENT + 1)/2*brush.wide, (1 - y/EXTENT)/2*brush.high];

function dot(brush, point, radius, fill, edge = null) {
  brush.beginPath();
  brush.arc(...place(brush, point), radius, 0, 2*Math.PI);
  if (fill) { brush.fillStyle = fill; brush.fill(); }
  if (edge) { brush.strokeStyle = edge; brush.stroke(); }
}

function strokes(brush, lines, colour) {
  brush.strokeStyle = colour;
  brush.beginPath();
  for (const [from, to] of lines) {
    brush.moveTo(...place(brush, from));
    brush.lineTo(...place(brush, to));
  }
  brush.stroke();
}

// Densities of several classes as ink: what is likely is deep, what is shared is mixed
function heat(brush, densities, look, depth = 12) {
  const small = blank(CELLS, CELLS), on = small.getContext('2d');
  const image = on.createImageData(CELLS, CELLS);
  const ground = rgb(look.ground), inks = look.classes.map(rgb);
  for (let i = 0; i < CELLS**2; i++) {
    const parts = densities.map(values => values[i]/densities.length);
    const sum = parts.reduce((a, b) => a + b) || 1e-300;
    const ink = 1 - Math.exp(-depth*sum);
    const at = 4*((CELLS - 1 - Math.floor(i/CELLS))*CELLS + i % CELLS);
    for (let j = 0; j < 3; j++) {
      const mixed = parts.reduce((all, p, k) => all + p/sum*inks[k][j], 0);
      image.data[at + j] = ground[j] + ink*(mixed - ground[j]);
    }
    image.data[at + 3] = 255;
  }
  on.putImageData(image, 0, 0);
  brush.drawImage(small, 0, 0, brush.wide, brush.high);
}

// A native slider: a name, and what its value says; words(value) is read aloud too
function slider(figure, name, {min, max, step, value}, words, changed) {
  const row = element(figure, 'div', {class: 'row'});
  const id = `cfg-slider-${slider.made = (slider.made ?? 0) + 1}`;
  element(row, 'label', {for: id}, name);
  const input = element(row, 'input', {type: 'range', id, min, max, step, value});
  const output = element(row, 'output', {for: id, 'aria-live': 'polite'});
  const say = () => {
    output.textContent = words(+input.value);
    input.setAttribute('aria-valuetext', output.textContent);
  };
  input.addEventListener('input', () => { say(); soon(changed); });
  say();
  return {row, input, get value() { return +input.value; }};
}

// Draw once before the next picture on the screen, however often it is asked
function soon(draw) {
  if (soon.waiting?.has(draw)) return;
  (soon.waiting ??= new Set()).add(draw);
  requestAnimationFrame(() => { soon.waiting.delete(draw); draw(); });
}

// A button that goes once up and down; by itself only where `moves`, seen, and wanted
function player(figure, {row, input}, moves, seconds = 5) {
  const button = element(row, 'button', {type: 'button'}, 'play');
  const [min, max] = [+input.min, +input.max];
  let stop = null;
  const put = value => {
    input.value = value;
    input.dispatchEvent(new Event('input'));
  };
  const live = how => figure.querySelectorAll('[aria-live]').forEach(
    part => part.setAttribute('aria-live', how));
  function play() {
    const home = +input.value, begun = performance.now();
    const phase = (home - min)/(max - min);
    let going = true;
    stop = () => { going = stop = null; button.textContent = 'play'; live('polite'); };
    const tick = now => {
      if (!going) return;
      const turns = (now - begun)/1000/seconds, turn = (turns + phase) % 2;
      if (turns >= 2) { stop(); return put(home); }
      put(min + (turn < 1 ? turn : 2 - turn)*(max - min));
      requestAnimationFrame(tick);
    };
    live('off');
    button.textContent = 'pause';
    requestAnimationFrame(tick);
  }
  button.addEventListener('click', () => stop ? stop() : play());
  for (const touch of ['pointerdown', 'keydown']) {
    input.addEventListener(touch, () => stop?.());
  }
  if (!moves || calm()) return;
  const seen = new IntersectionObserver(([entry]) => {
    if (entry.isIntersecting) { seen.disconnect(); if (!stop) play(); }
  }, {threshold: 0.6});
  seen.observe(figure);
}

// Rows of numbers: put(row, column, text) changes one of them
function table(figure, heads, names) {
  const made = element(figure, 'table', {'aria-live': 'polite'});
  const top = element(element(made, 'thead'), 'tr');
  for (const head of ['', ...heads]) element(top, 'th', {scope: 'col'}, head);
  const body = element(made, 'tbody');
  const rows = names.map(name => {
    const row = element(body, 'tr');
    element(row, 'th', {scope: 'row'}, name);
    return heads.map(() => element(row, 'td'));
  });
  return (row, texts) => rows[row].forEach((cell, k) => cell.textContent = texts[k]);
}

const minus = text => text.replace('-', '\u2212');

function wWords(w) {
  const said = {'-1.00': ', no class', '0.00': ', no guidance'};
  const text = (Math.round(100*w)/100 || 0).toFixed(2);      // 0 has no sign
  return minus(text) + (said[text] ?? '');
}

function strengthSlider(figure, value, changed, max = 4) {
  const range = {min: -1, max, step: 0.05, value};
  return slider(figure, 'strength w', range, wWords, changed);
}

const percent = share => `${Math.round(100*share)}%`;

// ---- (a) The guided density beside what a sampler makes

// All numbers of the figure: the densities, the samples, and how far out each is
function densityNumbers(mixture, w, {T, each, stochastic = false}) {
  const grid = logsnrGrid(T), starts = spiral(each), draws = normals(each*T, 1);
  const noise = stochastic ? (t, i) => draws[t*each + i] : null;
  const classes = mixture.means.map((mean, c) => {
    const {values} = density(mixture, c, w);
    const samples = sample(mixture, starts, c, w, grid, noise);
    const named = moments(cells, values), made = moments(samples);
    const out = x => (x[0]*mean[0] + x[1]*mean[1])/(Math.hypot(...mean) || 1);
    const beyond = x => out(x) - out(named.mean);
    const part = x => Math.min(1, Math.max(0, 0.5 + beyond(x)/SIDE));   // of a cell
    named.beyond = total(cells.map((x, i) => values[i]*part(x)))/total(values);
    made.beyond = samples.filter(x => beyond(x) > 0).length/each;
    return {values, samples, named, made};
  });
  const mean = f => total(classes.map(f))/classes.length;
  const over = of => ({far: mean(c => Math.hypot(...c[of].mean)),
                       spread: mean(c => c[of].spread),
                       beyond: mean(c => c[of].beyond)});
  return {classes, named: over('named'), made: over('made')};
}

function densityWords({far, spread, beyond}) {
  return `its mean ${far.toFixed(2)} from the centre, its spread ${spread.toFixed(2)}, `
    + `${percent(beyond)} of it beyond the mean of the density`;
}

function drawDensity({classes}, [left, right], look) {
  heat(left, classes.map(c => c.values), look);
  classes.forEach(({values, samples}, c) => {
    for (const x of samples) dot(right, x, right.wide/140, look.classes[c]);
    const edge = contour(values, level(values));
    for (const brush of [left, right]) strokes(brush, edge, look.classes[c]);
  });
}

function densityFigure(figure, {mixture, w, T, each, moves}) {
  const panels = element(figure, 'div', {class: 'panels'});
  const pair = [panel(panels, 'guided density'), panel(panels, 'samples by ')];
  const sampler = element(pair[1].name, 'select', {'aria-label': 'sampler'});
  for (const name of ['DDIM', 'Algorithm 2']) element(sampler, 'option', {}, name);
  const strength = strengthSlider(figure, w, () => draw());
  player(figure, strength, moves);
  const put = table(figure, ['mean, from the centre', 'spread',
                             'beyond the density\u2019s mean'], ['density', 'samples']);
  const row = ({far, spread, beyond}) =>
    [far.toFixed(2), spread.toFixed(2), percent(beyond)];
  sampler.addEventListener('change', () => draw());
  function draw() {
    const w = strength.value, stochastic = sampler.value !== 'DDIM';
    const found = densityNumbers(mixture, w, {T, each, stochastic});
    drawDensity(found, pair.map(brushOf), colours(figure));
    put(0, row(found.named));
    put(1, row(found.made));
    const at = `each of ${mixture.means.length} classes at w = ${w}`;
    pair[0].canvas.ariaLabel = `The guided density of ${at}: `
      + densityWords(found.named);
    pair[1].canvas.ariaLabel = `What ${sampler.value} makes of ${at}: `
      + densityWords(found.made);
  }
  return draw;
}

// ---- (b) The same images from the same noise, a row of one picture for each strength

// A row of the picture: a canvas, and its pixels
function rowOf(picture, row, side) {
  const made = blank(picture.width, side), brush = made.getContext('2d');
  brush.drawImage(picture, 0, -row*side);
  return {made, brush, image: brush.getImageData(0, 0, made.width, side)};
}

// The row in the page's colours: its black is the ground, its white the ink
function inked(picture, row, side, {ground, ink}) {
  const {made, brush, image} = rowOf(picture, row, side), {data} = image;
  const [from, to] = [rgb(ground), rgb(ink)];
  for (let i = 0; i < data.length; i += 4) {
    const share = data[i]/255;
    for (let j = 0; j < 3; j++) data[i + j] = from[j] + share*(to[j] - from[j]);
  }
  brush.putImageData(image, 0, 0);
  return made;
}

// How far images of one class differ, of 1 from black to white: root mean square
function unlike(picture, row, {side, columns, n}) {
  const {width, data} = rowOf(picture, row, side).image, squares = [];
  for (let y = 0; y < side; y++) for (let x = 0; x < side*(n - columns); x++) {
    const at = 4*(y*width + x), next = at + 4*side*columns;
    squares.push(((data[at] - data[next])/255)**2);
  }
  return Math.sqrt(total(squares)/squares.length);
}

function drawImages(brush, strip, {side, columns, n}) {
  const size = brush.wide/columns;
  for (let k = 0; k < n; k++) {
    const [x, y] = [k % columns*size, Math.floor(k/columns)*size];
    brush.drawImage(strip, k*side, 0, side, side, x, y, size - 2, size - 2);
  }
}

function imagesFigure(figure, data) {
  const {sprite, ws, step, n, side, columns, names, w, what, moves} = data;
  const picture = new Image();
  const shown = panel(figure, `${what}, each from its own noise`, n/columns/columns);
  const words = element(figure, 'div', {class: 'names'});
  for (const name of names) element(words, 'span', {}, name);
  const range = {min: ws[0], max: ws.at(-1), step, value: w};
  const strength = slider(figure, 'strength w', range, wWords, () => draw());
  player(figure, strength, moves);
  const note = element(figure, 'p', {class: 'note', 'aria-live': 'polite'});
  function draw() {
    if (!picture.complete) return;
    const row = Math.round((strength.value - ws[0])/step);
    drawImages(brushOf(shown), inked(picture, row, side, colours(figure)), data);
    const found = unlike(picture, row, data).toFixed(3);
    note.textContent = `The two of a class differ by ${found} a pixel, `
      + 'in the root mean square (1 is black against white).';
    shown.canvas.ariaLabel = `${what} (${names.join(', ')}), the same noise at `
      + `every w, here at w = ${ws[row]}. ${note.textContent}`;
  }
  picture.src = `data:image/png;base64,${sprite}`;
  picture.decode().then(() => soon(draw));
  return draw;
}

// ---- (c) A point on the curve of two scores

function axes(brush, {x, y, xName, yName}, look) {
  const [left, right, top, foot] = [44, 12, 8, 40];
  const log = Math.log, {wide, high} = brush;
  const across = v => left + (v - x[0])/(x.at(-1) - x[0])*(wide - left - right);
  const up = v => high - foot
    - log(v/y[0])/log(y.at(-1)/y[0])*(high - foot - top);
  Object.assign(brush, {font: '12px system-ui, sans-serif', fillStyle: look.quiet,
                        strokeStyle: look.line, textAlign: 'center'});
  for (const v of x) brush.fillText(v, across(v), high - foot + 16);
  brush.fillText(xName, (left + wide - right)/2, high - 6);
  brush.textAlign = 'right';
  brush.beginPath();
  for (const v of y) {
    brush.fillText(v, left - 8, up(v) + 4);
    brush.moveTo(left, up(v));
    brush.lineTo(wide - right, up(v));
  }
  brush.stroke();
  brush.textAlign = 'left';
  brush.fillText(yName, left + 4, top + 12);
  return ([a, b]) => [across(a), up(b)];
}

function drawCurves(brush, curves, k, ticks, look) {
  const at = axes(brush, ticks, look);
  curves.forEach(({points}, c) => {
    const places = points.map(({score, distance}) => at([score, distance]));
    brush.strokeStyle = brush.fillStyle = look.classes[c];
    brush.beginPath();
    for (const place of places) brush.lineTo(...place);
    brush.stroke();
    places.forEach(([x, y], i) => {
      brush.beginPath();
      brush.arc(x, y, i === k ? 7 : 2, 0, 2*Math.PI);
      brush.fill();
    });
  });
}

function curveFigure(figure, {curves, ws, w, ticks}) {
  const shown = panel(figure, ticks.title, 0.55);
  const range = {min: 0, max: ws.length - 1, step: 1, value: ws.indexOf(w)};
  const strength = slider(figure, 'strength w', range, k => wWords(ws[k]),
                          () => draw());
  const heads = [ticks.xName, ticks.yName, 'precision', 'recall'];
  const put = table(figure, heads, curves.map(({name}) => name));
  figure.querySelectorAll('tbody th').forEach((name, c) => name.dataset.curve = c);
  function draw() {
    const k = strength.value, look = colours(figure);
    drawCurves(brushOf(shown), curves, k, ticks, look);
    const rows = curves.map(({points}) => points[k]).map(p => [
      p.score.toFixed(2), p.distance.toFixed(2), percent(p.precision),
      percent(p.recall)]);
    rows.forEach((texts, c) => put(c, texts));
    shown.canvas.ariaLabel = `${ticks.title}. At w = ${ws[k]}: ` + curves.map(
      ({name}, c) => `${name}, ${ticks.xName} ${rows[c][0]}, ${ticks.yName} `
        + rows[c][1]).join('; ') + '.';
  }
  return draw;
}

// ---- (d) One trajectory, at whatever log-SNR

function pathNumbers(mixture, w, {c, T, each}) {
  const passed = trajectory(mixture, spiral(each), c, w, logsnrGrid(T));
  const pull = ({x, cond}) => Math.hypot(x[0] - cond[0], x[1] - cond[1]);
  return passed.map((points, t) => {
    const at = noisy(mixture, points[0].logsnr);
    const sure = ({z}) => {
      const joint = logJoint(at, z);
      return Math.exp(joint[c] - logSumExp(joint));
    };
    return {points, pulls: points.map(pull), sure: points.map(sure)};
  });
}

function arrow(brush, from, to, colour) {
  const [a, b] = [place(brush, from), place(brush, to)];
  const angle = Math.atan2(b[1] - a[1], b[0] - a[0]);
  Object.assign(brush, {strokeStyle: colour, lineWidth: 2});
  brush.beginPath();
  brush.moveTo(...a);
  brush.lineTo(...b);
  if (Math.hypot(b[0] - a[0], b[1] - a[1]) > 6) for (const turn of [2.6, -2.6]) {
    brush.moveTo(b[0] + 7*Math.cos(angle + turn), b[1] + 7*Math.sin(angle + turn));
    brush.lineTo(...b);
  }
  brush.stroke();
  brush.lineWidth = 1;
}

function drawPath([left, right], mixture, found, t, {c, point}, look) {
  const {points} = found[t], here = points[point];
  const all = logsnr => mixture.means.map(
    (_, k) => density(mixture, k, 0, logsnr).values);
  heat(left, all(here.logsnr), look, 3);
  heat(right, all(Infinity), look, 3);
  for (const {z} of points) dot(left, z, left.wide/140, look.classes[c]);
  dot(left, here.z, 6, look.ink);
  const trace = found.slice(0, t + 1).map(step => step.points[point].x);
  strokes(right, trace.slice(1).map((x, i) => [trace[i], x]), look.quiet);
  dot(right, here.none, 5, look.ground, look.ink);
  arrow(right, here.cond, here.x, look.ink);
  dot(right, here.cond, 5, look.classes[c], look.ink);
}

function pathFigure(figure, {mixture, c, w, T, each, point, t}) {
  const panels = element(figure, 'div', {class: 'panels'});
  const pair = [panel(panels, 'on its way'), panel(panels, 'what it is taken for')];
  const range = {min: 0, max: T - 1, step: 1, value: t}, grid = logsnrGrid(T);
  const words = t => minus(grid[t].toFixed(1));
  const time = slider(figure, 'log-SNR \u03bb', range, words, () => draw());
  const strength = strengthSlider(figure, w, () => draw(), 2);
  const put = table(figure, ['push of guidance', 'p(c|z)'],
                    ['this point', 'mean of all']);
  function draw() {
    const found = pathNumbers(mixture, strength.value, {c, T, each});
    const {pulls, sure, points} = found[time.value], look = colours(figure);
    drawPath(pair.map(brushOf), mixture, found, time.value, {c, point}, look);
    put(0, [pulls[point].toFixed(2), percent(sure[point])]);
    put(1, [total(pulls)/each, total(sure)/each].map((v, k) =>
      k ? percent(v) : v.toFixed(2)));
    const at = `at log-SNR ${words(time.value)}, w = ${strength.value}`;
    const [x, y] = points[point].x.map(v => v.toFixed(2));
    pair[0].canvas.ariaLabel = `Points on their way, ${at}, among the noisy classes.`;
    pair[1].canvas.ariaLabel = `What one of them is taken for, ${at}: (${x}, ${y}); `
      + `guidance pushes the guess by ${pulls[point].toFixed(2)}.`;
  }
  return draw;
}

// ---- Start: each figure that waits on the page comes to life

const kinds = {density: densityFigure, images: imagesFigure, curve: curveFigure,
               path: pathFigure};

function start() {
  if (!document.querySelector('style[data-cfg-slider]')) {
    element(document.head, 'style', {'data-cfg-slider': ''}, STYLE);
  }
  for (const figure of document.querySelectorAll('.cfg-slider:not([data-live])')) {
    figure.dataset.live = '';
    figure.querySelector('.still')?.remove();
    const data = JSON.parse(figure.dataset.figure);
    const draw = kinds[data.kind](figure, data);
    draw();
    new ResizeObserver(() => soon(draw)).observe(figure);
    looks.add(() => soon(draw));
  }
}

// Light or dark: draw again where the page or the system changes its colours
const looks = new Set();
const again = () => looks.forEach(draw => draw());
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again);
for (const part of [document.documentElement, document.body]) {
  new MutationObserver(again).observe(part, {attributes: true});
}

return {...maths, density, level, moments, contour, densityNumbers, pathNumbers,
        unlike, start};
})();
cfgSliders.start();
