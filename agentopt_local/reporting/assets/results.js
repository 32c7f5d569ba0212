// The headline, the learning curve and the kinds of problems; several runs side by side.

const SPLITS = { test: 'held\u2011out', validation: 'validation', train: 'training' };
const interval = ([low, high]) => `${tidyPercent(low)} to ${tidyPercent(high)}`;
const points = ([low, high]) => `${signed(low)} to ${signed(high)}`;

function verdict(result) {
  const { before, after, difference, n, split } = result;
  const on = `${plural(n, `${SPLITS[split]} problem`)}`;
  const [from, to] = [tidyPercent(before.accuracy), tidyPercent(after.accuracy)];
  if (result.same_set) return `Accuracy on ${on} is ${to}: no function was kept, so both are the same agent.`;
  if (difference.ci95[0] > 0) return `Accuracy on ${on} rose from ${from} to ${to}.`;
  if (difference.ci95[1] < 0) return `Accuracy on ${on} fell from ${from} to ${to}.`;
  if (from === to) return `Accuracy on ${on} stayed at ${to}.`;
  return `Accuracy on ${on} went from ${from} to ${to}: this may be chance.`;
}

function evidence(result) {
  const { difference, n } = result;
  return el('dl', { class: 'facts' },
    fact('Change', `${signed(difference.points)} points`, `95 % interval ${points(difference.ci95)}`),
    fact('Chance', pValue(difference.p_value), 'exact McNemar test, two-sided'),
    fact('Gained', whole(difference.gained), `of ${plural(n, 'problem')}: wrong before, right after`),
    fact('Lost', whole(difference.lost), 'right before, wrong after'),
    result.look && fact('Look', `${result.look} of this test set`, result.look > 1
      ? `of ${result.look} looks the best one needs p < ${(0.05 / result.look).toPrecision(2)} for what 0.05 says of one` : `SHA-256 ${result.test_set.slice(0, 12)}`));
}

const fact = (name, value, note) => el('div', {}, el('dt', {}, name), el('dd', {}, el('strong', {}, value), el('span', {}, note)));

const marks = (row) => [
  { name: 'before', style: 'before', value: row.before }, { name: 'after', style: 'after', value: row.after }];

function headline(run) {
  const result = run.results[0];
  const done = run.steps.filter((step) => step.decision === 'accepted').length;
  const learned = run.functions.filter((each) => each.status === 'learned').length;
  const kept = run.steps.length === 1
    ? `which was ${done ? '' : 'not '}kept` : `${done} of which ${done === 1 ? 'was' : 'were'} kept`;
  const story = run.steps.length
    ? `${plural(learned, 'function')} learned in ${plural(run.steps.length, 'step')}, ${kept}.`
    : 'No step has finished yet.';
  const title = result ? verdict(result) : 'Nothing has been measured yet.';
  return el('section', { id: 'results', class: 'hero', 'aria-labelledby': 'results-title' },
    el('p', { class: 'eyebrow' }, run.task, el('span', {}, ' · '), run.model, el('span', {}, ' · '), run.name),
    el('h1', { id: 'results-title' }, title),
    el('p', { class: 'lead' }, story, ' The model’s weights did not change.'),
    nothing(run),
    caution(run, result),
    result && !result.same_set && evidence(result),
    result && figure('Accuracy before and after, with 95 % Wilson intervals', title,
      dotPlot([
        { label: 'Before training', marks: [{ name: '', style: 'before', value: [result.before.accuracy, ...result.before.ci95] }] },
        { label: 'After training', marks: [{ name: '', style: 'after', value: [result.after.accuracy, ...result.after.ci95] }] },
      ])),
    run.results.length > 1 && otherSplits(run),
    run.regime.length > 0 && fold('What differs from the paper’s regime', false, el('ul', {}, run.regime.map((each) => el('li', {}, each)))));
}

// Why no step was kept, and what to try.
function nothing(run) {
  if (!run.nothing) return null;
  const { because, remedies } = run.nothing;
  return el('div', { class: 'note', role: 'note', 'aria-label': 'Why nothing was learned' },
    el('strong', {}, 'Nothing was learned, because'), el('ul', {}, because.map((each) => el('li', {}, each))),
    remedies.length > 0 && [el('strong', {}, 'What to try'), el('ul', {}, remedies.map((each) => el('li', {}, each)))]);
}

function caution(run, result) {
  const said = [];
  if (result && result.split !== 'test') said.push('These are the training problems. The held-out evaluation is missing, so this says nothing about new problems.');
  if (result && !result.complete) said.push('The evaluation has not finished. Only problems that both agents have tried are counted.');
  return [...said, ...run.notes].length
    ? el('ul', { class: 'note', role: 'note', 'aria-label': 'What is missing' }, [...said, ...run.notes].map((each) => el('li', {}, each))) : null;
}

// Do the functions help on problems that played no part in training?
function certificates(run) {
  const [own, ...others] = run.certificates;
  if (!own) return null;
  return section('certificate', 'Certificate',
    'Problems that played no part in training, looked at one by one in random order: the functions are certified as soon as the evidence E suffices.',
    el('p', {}, el('strong', {}, own.summary), own.basis && `; ${own.basis}.`),
    own.n > 0 && el('dl', { class: 'facts' },
      fact('Evidence', `E = ${brief(own.evidence)}`, `${brief(own.needed)} certifies that they help`),
      fact('Problems', whole(own.n), `of at most ${whole(own.n_max)}`),
      fact('Gained', whole(own.gained), 'reward higher than before'),
      fact('Lost', whole(own.lost), 'reward lower than before')),
    others.length > 0 && table('Further comparisons on these problems', [
      ['Compared with', (each) => each.against, 'head'], ['Verdict', (each) => each.summary],
      ['Evidence', (each) => brief(each.evidence), 'number'], ['Needed', (each) => brief(each.needed), 'number'],
      ['Problems', (each) => whole(each.n), 'number'], ['Gained', (each) => whole(each.gained), 'number'],
      ['Lost', (each) => whole(each.lost), 'number']], others));
}

const brief = (number) => String(Number(number.toPrecision(3)));

function otherSplits(run) {
  return fold('Other problems', false, table('Accuracy by set of problems', [
    ['Problems', (row) => `${SPLITS[row.split]} (${row.n})`, 'head'],
    ['Before', (row) => tidyPercent(row.before.accuracy), 'number'],
    ['After', (row) => tidyPercent(row.after.accuracy), 'number'],
    ['Change, points', (row) => signed(row.difference.points), 'number'],
    ['95 % interval', (row) => points(row.difference.ci95), 'number'],
  ], run.results));
}

function learning(run) {
  const counts = { accepted: 0, rolled_back: 0, skipped: 0 };
  for (const step of run.steps) counts[step.decision] += 1;
  const key = el('ul', { class: 'key' }, Object.entries({
    accepted: 'accepted', rolled_back: 'rolled back', skipped: 'skipped, nothing to try' }).filter(([decision]) => counts[decision]).map(([decision, name]) =>
    el('li', {}, canvas(16, 16, '', svg('g', { class: `mark ${decision}` }, MARKS[decision](8, 8))), `${counts[decision]} ${name}`)));
  const body = run.steps.length
    ? [key, figure('Accuracy on the training problems of each step, with 95 % Wilson intervals',
      `Learning curve: ${run.steps.map(stepLabel).join('. ')}`, learningCurve(run.steps), stepsAsTable(run))]
    : el('p', {}, 'No step has finished yet.');
  return section('learning', 'Learning curve',
    'The line is the accuracy of the kept functions. A step is kept only if it does better on the same problems; otherwise it is rolled back and the line stays level.', body);
}

const stepsAsTable = (run) => table('Accuracy by step', [
  ['Step', (step) => String(step.step), 'head'],
  ['Decision', (step) => words(step.decision)],
  ['Before', (step) => tidyPercent(step.before[0]), 'number'],
  ['After', (step) => tidyPercent(step.after[0]), 'number'],
  ['95 % interval', (step) => interval(step.after.slice(1, 3)), 'number'],
  ['Problems', (step) => whole(step.after[3]), 'number'],
], run.steps);

function kinds(run) {
  const result = run.results[0];
  if (!result || !result.kinds.length) return null;
  const rows = [...result.kinds].sort((a, b) => (b.after[0] - b.before[0]) - (a.after[0] - a.before[0]));
  return section('kinds', 'Kinds of problems',
    `The ${SPLITS[result.split]} problems by kind, largest gain first. Intervals are wide where problems are few.`,
    el('ul', { class: 'key' }, el('li', { class: 'before' }, '○ before'), el('li', { class: 'after' }, '● after')),
    figure('Accuracy by kind, with 95 % Wilson intervals',
      rows.map((row) => `${row.kind}: ${tidyPercent(row.before[0])} to ${tidyPercent(row.after[0])}`).join('. '),
      dotPlot(rows.map((row) => ({ label: `${row.kind} (${row.n})`, marks: marks(row) }))),
      table('Accuracy by kind', [
        ['Kind', (row) => row.kind, 'head'], ['Problems', (row) => whole(row.n), 'number'],
        ['Before', (row) => tidyPercent(row.before[0]), 'number'], ['After', (row) => tidyPercent(row.after[0]), 'number'],
        ['95 % interval after', (row) => interval(row.after.slice(1)), 'number']], rows)),
    endings(result));
}

function endings(result) {
  const reasons = [...new Set(['before', 'after'].flatMap((side) => Object.keys(result.stops[side] || {})))];
  return reasons.length > 0 && fold('How attempts ended', false, table('How attempts ended', [
    ['Ending', (reason) => words(reason), 'head'],
    ['Before', (reason) => whole(result.stops.before[reason] || 0), 'number'],
    ['After', (reason) => whole(result.stops.after[reason] || 0), 'number']], reasons));
}

function comparison(runs) {
  const curves = runs.filter((run) => run.steps.length);
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))].filter((key) =>
    key !== 'run_name' && new Set(runs.map((run) => JSON.stringify(run.settings[key]))).size > 1);
  const result = (run) => run.results[0];
  const sets = new Set(runs.filter(result).map((run) => result(run).test_set || `${result(run).split} ${result(run).n}`));
  return el('section', { id: 'comparison', class: 'hero', 'aria-labelledby': 'comparison-title' },
    el('h1', { id: 'comparison-title' }, `${runs.length} runs side by side`),
    sets.size > 1 && el('p', { class: 'note', role: 'note' }, 'The runs were measured on different problems. Compare their changes, not their accuracies.'),
    table('Results by run', [
      ['Run', (run) => [el('span', { class: `swatch run-${runs.indexOf(run) % 6}`, 'aria-hidden': 'true' }), run.name], 'head'],
      ['Model', (run) => run.model],
      ['Problems', (run) => (result(run) ? `${result(run).n} ${SPLITS[result(run).split]}` : '–'), 'number'],
      ['Before', (run) => (result(run) ? tidyPercent(result(run).before.accuracy) : '–'), 'number'],
      ['After', (run) => (result(run) ? tidyPercent(result(run).after.accuracy) : '–'), 'number'],
      ['Change in points, 95 % interval', (run) => (result(run) ? `${signed(result(run).difference.points)} (${points(result(run).difference.ci95)})` : '–'), 'number'],
      ['p', (run) => (result(run) ? pValue(result(run).difference.p_value).replace('p = ', '').replace('p ', '') : '–'), 'number'],
      ['Certificate', (run) => (run.certificates[0] ? words(run.certificates[0].verdict) : '–')],
      ['Steps kept', (run) => `${run.steps.filter((step) => step.decision === 'accepted').length} of ${run.steps.length}`, 'number'],
      ['Functions', (run) => whole(run.functions.filter((each) => each.status === 'learned').length), 'number'],
      ['Tokens', (run) => whole(generated(run)), 'number'],
      ['Time', (run) => duration(spent(run)), 'number'],
    ], runs),
    curves.length > 0 && figure('Accuracy of the kept functions on the training problems, with 95 % Wilson intervals',
      'Learning curves of all runs', manyCurves(runs)),
    el('h2', {}, 'Settings that differ'),
    keys.length ? table('Settings that differ', [['Setting', (key) => el('code', {}, key), 'head'],
      ...runs.map((run) => [run.name, (key) => setting(run.settings[key])])], keys)
      : el('p', {}, 'None: the runs have the same settings.'));
}

const setting = (value) => el('code', {}, value === undefined ? '–' : typeof value === 'string' ? value : JSON.stringify(value));
const generated = (run) => run.usage.reduce((sum, part) => sum + part.completion_tokens, 0);
const spent = (run) => run.seconds.work ?? run.seconds.steps;
