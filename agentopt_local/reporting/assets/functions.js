// Every function that was ever tried: what it is, how it came about, and what it was good for.

const EDITS = { add_function: 'added', revise_function: 'revised', remove_function: 'removed' };
const anchor = (name) => `function-${name}`;

function functions(run, index) {
  const learned = run.functions.filter((each) => each.status === 'learned');
  const rest = run.functions.filter((each) => each.status !== 'learned');
  return section('functions', 'What was learned',
    learned.length ? 'These Python functions are the whole result. The agent calls them; they run in a sandbox.' : null,
    learned.length ? learned.map((each) => card(run, index, each)) : el('p', {}, 'No function was learned.'),
    rest.length > 0 && fold(`${plural(rest.length, 'function')} tried and not kept`, learned.length === 0, rest.map((each) => card(run, index, each))));
}

function card(run, index, each) {
  const history = each.history;
  return el('article', { class: 'card', id: anchor(each.name), 'aria-labelledby': `${anchor(each.name)}-title` },
    el('header', {},
      el('h3', { id: `${anchor(each.name)}-title` }, each.name),
      el('span', { class: `pill ${each.status.replace(' ', '-')}` }, each.status)),
    el('p', { class: 'signature' }, el('code', {}, each.signature)),
    each.description && el('p', { class: 'description' }, each.description),
    use(run, index, each),
    fold('Source', each.status === 'learned', code(each.source)),
    each.schema && fold('Schema of the arguments', false, code(JSON.stringify(each.schema, null, 2))),
    history.length > 0 && fold(`History: ${plural(history.length, 'edit')}, ${history.filter((edit) => edit.kept).length} kept`, false,
      el('ol', { class: 'history' }, history.map(edit))));
}

function edit(each) {
  const matches = each.matches && !each.matches.endsWith('/0') ? `, answered ${each.matches.replace('/', ' of ')} shown problems in trials` : '';
  const outcome = each.kept ? 'kept' : each.decision === 'accepted' ? 'left out of what was kept' : words(each.decision);
  return el('li', {},
    el('p', {}, el('a', { href: `#step-${each.step}` }, `Step ${each.step}`), ` ${EDITS[each.kind] || words(each.kind)}${matches}: `,
      el('strong', { class: each.kept ? 'after' : 'bad' }, outcome)),
    each.diff.length ? diffBlock(each.diff) : el('p', { class: 'muted' }, 'The source stayed as it was.'));
}

function use(run, index, each) {
  const splits = Object.entries(each.use);
  if (!splits.length) return calls('in all rollouts', each.all);
  return el('div', { class: 'use' }, splits.map(([split, row]) => [
    calls(`on ${SPLITS[split]} problems, after training`, row),
    row.only_with.length > 0 && only(run, index, each, split, row.only_with),
  ]), calls('in all rollouts, rolled-back steps too', each.all));
}

function calls(where, row) {
  if (!row.calls) return el('p', {}, `Never called ${where}.`);
  return el('p', {}, el('strong', {}, plural(row.calls, 'call')), ` ${where}: `,
    `${percent(row.ok / row.calls)} without error; `, el('strong', {}, `${row.solved} of ${row.problems}`), ' problems that used it were solved.');
}

const SHOWN = 8;

function only(run, index, each, split, problems) {
  const link = (problem) => [el('a', { href: `#run=${index}&rollout=${run.only_with_index[split][problem]}` }, problem), ' '];
  return el('p', { class: 'only' }, el('strong', {}, `${plural(problems.length, 'problem')} solved only with it`),
    ' (wrong before; right now, with a call of it): ', problems.slice(0, SHOWN).map(link),
    problems.length > SHOWN && el('a', { href: `#${new URLSearchParams({ run: index, fn: each.name, outcome: 'gained' })}` }, `and ${problems.length - SHOWN} more`));
}
