// The page: a comparison if there are several runs, then the sections of one run.

const NAMES = {
  comparison: 'Compare', results: 'Results', baselines: 'Baselines', noise: 'Noise', certificate: 'Certificate', learning: 'Learning', kinds: 'Kinds', functions: 'Functions', credit: 'Credit',
  rollouts: 'Rollouts', steps: 'Steps', cost: 'Cost', repeat: 'Repeat',
};
const main = document.getElementById('main');
const body = el('div', { id: 'run' });
let shownRun = -1;
let browser = null;

function showRun(index) {
  if (index === shownRun) return;
  shownRun = index;
  const run = DATA.runs[index];
  browser = run.rollouts.rows.length ? new Browser(run, index) : null;
  body.replaceChildren(...[headline(run), baselines(run), noise(run), certificates(run), learning(run), kinds(run), functions(run, index), credit(run), rollouts(run, browser), steps(run), cost(run), repeat(run)].filter(Boolean));
  document.getElementById('nav').replaceChildren(...[...main.querySelectorAll('section[id]')].map(({ id }) =>
    el('li', {}, el('a', { href: `#${id}` }, NAMES[id]))));
  browser?.restore(new URLSearchParams());
  for (const choice of main.querySelectorAll('.runs input')) choice.checked = Number(choice.value) === index;
}

function chooser() {
  return el('fieldset', { class: 'runs' }, el('legend', {}, 'Show run'), DATA.runs.map((run, index) =>
    el('label', {}, el('input', { type: 'radio', name: 'run', value: index, onchange: () => showRun(index) }),
      el('span', { class: `swatch run-${index % 6}`, 'aria-hidden': 'true' }), run.name)));
}

// Show what the address names: a rollout, a filter, or a part of the page, which is unfolded if necessary.
async function follow() {
  const parameters = place();
  const index = Number(parameters.get('run') || (shownRun < 0 ? 0 : shownRun));
  showRun(DATA.runs[index] ? index : 0);
  if ([...parameters.keys()].length) {
    await browser?.restore(parameters);
  }
  const name = parameters.has('rollout') ? 'attempts' : [...parameters.keys()].length ? 'rollouts' : location.hash.slice(1);
  const target = name && document.getElementById(name);
  for (let node = target; node; node = node.parentElement) if (node.tagName === 'DETAILS') node.open = true;
  // Charts get their height when they are drawn, after the first layout.
  if (target) requestAnimationFrame(() => requestAnimationFrame(() => target.scrollIntoView()));
}

themeSwitch();
if (DATA.runs.length > 1) main.append(comparison(DATA.runs), chooser());
main.append(body);
document.getElementById('foot').append(`Written by agentopt-local ${DATA.version}. This file is self-contained and loads nothing from elsewhere.`);
window.addEventListener('hashchange', follow);
window.addEventListener('beforeprint', () => { for (const each of main.querySelectorAll('details')) each.open = true; });
follow();
