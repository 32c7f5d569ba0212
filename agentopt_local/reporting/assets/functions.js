// Every function that was ever tried: what it is, its history, and how it was used.

const EDITS = { add_function: 'added', revise_function: 'revised', remove_function: 'removed' };
const anchor = (name) => `function-${name}`;

function functions(run, index) {
  const learned = run.functions.filter((each) => each.status === 'learned');
  const rest = run.functions.filter((each) => each.status !== 'learned');
  return section('functions', 'What was learned',
    learned.length ? 'These Python functions are all that was learned. The agent calls them, and they run in a sandbox.' : null,
    Object.entries(run.offers).map(([split, text]) => el('p', {}, `${text} (${SPLITS[split]} problems).`)),
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
    each.description && el('p', { class: 'description' }, each.description.split('\n\n')[0]),
    run.memorising[each.name] && el('p', { class: 'note', role: 'note' }, `${run.memorising[each.name]}.`),
    use(run, index, each),
    fold('Source', each.status === 'learned', code(each.source)),
    each.schema && fold('Schema of the arguments', false, code(JSON.stringify(each.schema, null, 2))),
    history.length > 0 && fold(`History: ${plural(history.length, 'edit')}, ${history.filter((edit) => edit.kept).length} kept`, false,
      el('ol', { class: 'history' }, history.map(edit))));
}

function edit(each) {
  const matches = each.matches && !each.matches.endsWith('/0') ? `, answered ${each.matches.replace('/', ' of ')} shown problems in trials` : '';
  const outcome = each.kept ? 'kept' : each.decision === 'accepted' ? 'not among the kept edits' : words(each.decision);
  return el('li', {},
    el('p', {}, el('a', { href: `#step-${each.step}` }, `Step ${each.step}`), ` ${EDITS[each.kind] || words(each.kind)}${matches}: `,
      el('strong', { class: each.kept ? 'after' : 'bad' }, outcome)),
    each.diff.length ? diffBlock(each.diff) : el('p', { class: 'muted' }, 'The source did not change.'));
}

const failed = (row) => (!row.calls ? '–' : row.ok === row.calls ? '0' : el('strong', { class: 'bad' }, `${whole(row.calls - row.ok)} (${percent(1 - row.ok / row.calls)})`));

function use(run, index, each) {
  const splits = Object.entries(each.use);
  const rows = [...splits.map(([split, row]) => [`${SPLITS[split]} problems, trained agent`, row]), ['all rollouts, including rolled\u2011back updates', each.all]];
  const only = splits.filter(([, row]) => row.only_with.length);
  const total = only.reduce((sum, [, row]) => sum + row.only_with.length, 0);
  return [
    table(`Calls of ${each.name}`, [
      ['Where', ([where]) => where],
      ['Direct calls', ([, row]) => whole(row.calls), 'number'],
      ['failed of these', ([, row]) => failed(row), 'number'],
      ['Problems where it was called', ([, row]) => whole(row.problems), 'number'],
      ['from code only', ([, row]) => whole(row.only_in_code), 'number'],
      ['solved', ([, row]) => (row.problems ? `${whole(row.solved)} (${percent(row.solved / row.problems)})` : '–'), 'number'],
      ['solved only with it', ([, row]) => (row.only_with ? el('strong', {}, whole(row.only_with.length)) : ''), 'number'],
    ], rows),
    total > 0 && fold(`${plural(total, 'problem')} solved only with it`, false,
      el('p', { class: 'muted' }, 'Wrong before training, and right after it in an attempt that called the function.'),
      only.map(([split, row]) => el('p', { class: 'only' }, `${SPLITS[split]}: `, row.only_with.map((problem) =>
        [el('a', { href: `#run=${index}&rollout=${run.only_with_index[split][problem]}` }, problem), ' '])))),
  ];
}
