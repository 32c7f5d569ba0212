// Building blocks. Text reaches the page only through text nodes and attributes, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const DATA = JSON.parse(document.getElementById('data').textContent);

// Numbers and words

const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u202f%`;
const tidyPercent = (share) => percent(share, Math.abs(100 * share - Math.round(100 * share)) < 0.05 ? 0 : 1);
const whole = (number) => Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, '\u202f');
const signed = (number, digits = 1) => `${number < 0 ? '−' : '+'}${Math.abs(number).toFixed(digits)}`;
const plural = (n, word, many = `${word}s`) => `${whole(n)} ${n === 1 ? word : many}`;
const words = (code) => String(code).replaceAll('_', ' ');
const pValue = (p) => (p < 0.0001 ? 'p < 0.0001' : `p = ${Number(p.toPrecision(2))}`);

function duration(seconds) {
  if (seconds < 100) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// Structure

function section(id, title, lead, ...children) {
  return el('section', { id, 'aria-labelledby': `${id}-title` },
    el('h2', { id: `${id}-title` }, title), lead && el('p', { class: 'lead' }, lead), children);
}

// Columns: [heading, cell function, class]; the class "head" makes the cell a row heading.
function table(caption, columns, rows) {
  const cell = (row) => ([, value, style]) =>
    el(style === 'head' ? 'th' : 'td', { class: style, scope: style === 'head' ? 'row' : null }, value(row));
  return el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    el('table', {}, el('caption', { class: 'hidden' }, caption),
      el('thead', {}, el('tr', {}, columns.map(([head, , style]) => el('th', { scope: 'col', class: style }, head)))),
      el('tbody', {}, rows.map((row) => el('tr', {}, columns.map(cell(row)))))));
}

const fold = (title, open, ...children) => el('details', { open }, el('summary', {}, title), children);
const code = (text) => el('pre', { class: 'code', tabindex: '0' }, el('code', {}, highlight(text)));

// Rough highlighting of Python.
const PYTHON = new RegExp([
  /(?<comment>#[^\n]*)/,
  /(?<string>[rbfuRBFU]{0,2}(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))/,
  /(?<keyword>\b(?:False|None|True|and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b)/,
  /(?<number>\b\d[\w.]*)/,
].map((part) => part.source).join('|'), 'g');

function highlight(text) {
  const parts = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(PYTHON)) {
    const kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    parts.append(text.slice(end, match.index), el('span', { class: `py-${kind}` }, match[0]));
    end = match.index + match[0].length;
  }
  parts.append(text.slice(end));
  return parts;
}

const DIFF = { '+': 'added', '-': 'gone', '@': 'place' };

function diffBlock(lines) {
  return el('pre', { class: 'code diff', tabindex: '0' },
    lines.map((line) => el('span', { class: DIFF[line[0]] || 'same' }, `${line}\n`)));
}

// Compressed blocks

const chunks = new Map();

async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
}

// Entry `position` of a run's chunks; the chunk stays unpacked.
async function entry(run, first, position) {
  const size = DATA.runs[run].rollouts.chunk;
  const id = `chunk-${run}-${first + Math.floor(position / size)}`;
  if (!chunks.has(id)) chunks.set(id, unpack(id));
  return (await chunks.get(id))[position % size];
}

const canUnpack = typeof DecompressionStream === 'function';
const rolloutAt = (run, position) => entry(run, 0, position);

function questionAt(run, problem) {
  const { rows, chunk } = DATA.runs[run].rollouts;
  return entry(run, Math.ceil(rows.length / chunk), problem);
}

// The reader's place in the report, kept in the address so that it can be shared.

const place = () => new URLSearchParams(location.hash.includes('=') ? location.hash.slice(1) : '');

function remember(parameters) {
  try {
    history.replaceState(null, '', `#${parameters}`);
  } catch {
    location.hash = parameters;
  }
}

function setTheme(name) {
  if (name === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

function themeSwitch() {
  const choice = document.getElementById('theme');
  try {
    choice.value = localStorage.getItem('agentopt-theme') || 'auto';
  } catch { /* the browser stores nothing for local files */ }
  if (!choice.value) choice.value = 'auto';
  setTheme(choice.value);
  choice.addEventListener('change', () => {
    setTheme(choice.value);
    try {
      localStorage.setItem('agentopt-theme', choice.value);
    } catch { /* kept until the page is closed */ }
  });
}
