// What each step tried and with what outcome; what the run cost; how to repeat it.

function steps(run) {
  if (!run.steps.length) return null;
  return section('steps', 'Step by step',
    'Each edit is first tried in the sandbox on failed problems. Then whole sets are rolled out, and the best one is kept if it beats the current set on the problems that count: by default, those that the author of its edits was not shown.',
    table('Actions by step', [
      ['Step', (step) => el('span', { id: `step-${step.step}` }, String(step.step)), 'head'],
      ['Decision', (step) => el('span', { class: `pill ${step.decision.replace('_', '-')}` }, words(step.decision))],
      ['Accuracy', (step) => `${tidyPercent(step.before[0])} → ${tidyPercent(step.after[0])}`, 'number'],
      ['Gained and lost where it counts', (step) => judged(step.candidates[0]), 'number'],
      ['Best candidate: its edits, each with the shown problems that it answered in trials', (step) => (step.actions.length ? list(step.actions.map(action)) : step.why.length ? list(step.why) : 'none')],
      ...(run.steps.some((step) => step.groups.length) ? [['Failures that were shown together, and what became of the edits for them',
        (step) => (step.groups.length ? list(step.groups) : '–')]] : []),
      ['Other candidates rolled out', (step) => (step.candidates.length > 1 ? list(step.candidates.slice(1).map((each) =>
        `${tidyPercent(each.accuracy)} (${judged(each)})  ${each.actions.map(spoken).join(' + ') || 'unchanged'}`)) : '–')],
      ['Sampled → applied', (step) => ['sampled', 'legal', 'verified', 'applied'].map((key) => step.counts[key] ?? '–').join(' → '), 'number'],
      ['Tokens', (step) => whole(step.tokens.optimizer + step.tokens.rollouts), 'number'],
      ['Time', (step) => duration(step.seconds), 'number'],
    ], run.steps));
}

const list = (items) => el('ul', { class: 'plain' }, items.map((item) => el('li', {}, item)));

const judged = (each) => (each?.judged ? `+${each.judged.gained} −${each.judged.lost} of ${each.judged.n}` : '–');

function action(each) {
  const verb = words(each.kind).replace(' function', '');
  const trials = each.matches && !each.matches.endsWith('/0') ? ` ${each.matches}` : '';
  return each.name ? [`${verb} `, el('a', { href: `#${anchor(each.name)}` }, each.name), trials] : verb;
}

const spoken = (summary) => summary.replace('_function', '');

function cost(run) {
  const parts = run.usage.filter((part) => part.requests > 0);
  const most = Math.max(1, ...parts.map((part) => part.prompt_tokens + part.completion_tokens));
  const sum = (key) => parts.reduce((total, part) => total + part[key], 0);
  const bar = (part) => canvas(120, 10, '', svg('rect', { width: (120 * part.prompt_tokens) / most, height: 10, class: 'before fill' }),
    svg('rect', { x: (120 * part.prompt_tokens) / most, width: (120 * part.completion_tokens) / most, height: 10, class: 'after fill' }));
  // Without metrics only the time of the training steps is known, so only their tokens count.
  const timed = parts.filter((part) => run.seconds.work !== null || !['test rollouts', 'validation rollouts'].includes(part.part));
  const rate = timed.reduce((total, part) => total + part.completion_tokens, 0) / (spent(run) || Infinity);
  return section('cost', 'Tokens and time', null,
    el('dl', { class: 'facts' },
      fact('Time', duration(spent(run)), run.seconds.work === null ? 'for the training steps' : 'of work, including start and evaluation'),
      fact('Generated', whole(sum('completion_tokens')), sum('thought_tokens') ? `tokens, ${percent(sum('thought_tokens') / sum('completion_tokens'))} of them in thoughts` : 'tokens'),
      fact('Read', whole(sum('prompt_tokens')), sum('prompt_tokens') ? `prompt tokens, ${percent(sum('cached_tokens') / sum('prompt_tokens'))} from the prefix cache` : 'prompt tokens'),
      fact('Throughput', rate >= 10 ? whole(rate) : rate.toFixed(1), 'generated tokens per second, on average')),
    run.throughput.length > 1 && figure('Generated tokens per second', 'Throughput over time', throughputChart(run.throughput)),
    parts.length > 0 && [table('Tokens by part', [
      ['Part', (part) => (part.rollouts ? `${whole(part.rollouts)} ${part.part}` : part.part), 'head'],
      ['Requests', (part) => whole(part.requests), 'number'],
      ['Prompt tokens', (part) => whole(part.prompt_tokens), 'number'],
      ['Cached', (part) => (part.prompt_tokens ? percent(part.cached_tokens / part.prompt_tokens) : '–'), 'number'],
      ['Generated', (part) => whole(part.completion_tokens), 'number'],
      ...(sum('thought_tokens') ? [['In thoughts', (part) => whole(part.thought_tokens), 'number']] : []),
      ['', bar],
    ], parts), el('ul', { class: 'key' }, el('li', { class: 'before' }, '■ prompt'), el('li', { class: 'after' }, '■ generated'))]);
}

function repeat(run) {
  const entries = (values) => Object.entries(values).filter(([, value]) => value !== null);
  const values = (caption, rows) => table(caption, [
    ['Name', ([key]) => el('code', {}, key), 'head'], ['Value', ([, value]) => setting(value)]], rows);
  const changed = new Set(run.changed);
  return section('repeat', 'Repeat it',
    'The settings that differ from the defaults. Saved as repeat.toml they give the same problems and seeds with the same versions.',
    code(run.toml || '# all settings have their defaults'),
    el('pre', { class: 'code', tabindex: '0' }, `agentopt train repeat.toml\nagentopt evaluate ${run.path}\nagentopt show ${run.path} --diff`),
    fold('Versions and machine', false, values('Versions and machine', entries(run.meta))),
    fold('All settings', false, values('All settings', Object.entries(run.settings)
      .sort(([a], [b]) => changed.has(b) - changed.has(a)))));
}
