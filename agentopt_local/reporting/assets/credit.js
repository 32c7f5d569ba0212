// What each function contributes: effects with intervals around zero, by kind of problem, and what was removed.

const VERDICTS = { helps: 'after', hurts: 'bad' };
const fromTo = ([low, high]) => `${signed(low)} to ${signed(high)}`;
const effectText = (each) => `${signed(each.points)} points (${fromTo(each.ci95)})`;
const whole3 = (each) => [each.points, ...each.ci95];

function credit(run) {
  const found = run.credit;
  if (!found) return null;
  const masked = found.each.some((each) => each.masks);
  const splits = Object.entries(found.problems).map(([split, n]) => `${whole(n)} ${SPLITS[split]}`).join(' and ');
  const kinds = [...new Set(found.each.flatMap((each) => Object.keys(each.kinds)))].sort();
  return section('credit', 'What each function contributes',
    `Problems solved with all functions minus problems solved without this one, on ${splits} problems. Those that a function’s author was shown do not count for it.`,
    found.pruned && el('p', {}, `Removed: ${found.pruned.removed.join(', ')}. The smaller set against the whole one: ${effectText(found.pruned.effect)}. `,
      found.pruned.run ? `The smaller set is in the run ${found.pruned.run}.` : 'The figures below are those of the whole set.'),
    found.notes.length > 0 && el('ul', { class: 'note', role: 'note', 'aria-label': 'Limits' }, found.notes.map((each) => el('li', {}, each))),
    masked && el('ul', { class: 'key' }, el('li', {}, '● left out alone'), el('li', { class: 'before' }, `○ among random halves of the others (${found.masks} for each problem)`)),
    figure('Effect of each function in percentage points, with 95 % intervals',
      found.each.map((each) => `${each.name}: ${effectText(each.effect)}, ${each.verdict}`).join('. '),
      forest(found.each.map((each) => ({
        label: each.name,
        marks: [{ style: VERDICTS[each.verdict] || 'muted', value: whole3(each.effect), name: each.verdict, note: each.verdict },
          ...(each.masks ? [{ style: 'before', value: whole3(each.masks), name: 'among random halves' }] : [])],
      }))),
      creditTable(found, masked)),
    kinds.length > 0 && fold('By kind of problem', found.each.length <= 5, table('Effect by kind of problem, in percentage points', [
      ['Kind', (kind) => kind || 'other', 'head'],
      ...found.each.map((each) => [each.name, (kind) => kindCell(each.kinds[kind]), 'number']),
    ], kinds)));
}

const kindCell = (each) => (!each ? '–' : !each.gained && !each.lost ? el('span', { class: 'muted' }, `0 of ${each.n}`)
  : el('span', { class: each.points < 0 ? 'bad' : 'after' }, `${signed(each.points, 0)} (${signed(each.ci95[0], 0)} to ${signed(each.ci95[1], 0)}) of ${each.n}`));

const creditTable = (found, masked) => table('Effect of each function', [
  ['Function', (each) => el('a', { href: `#${anchor(each.name)}` }, each.name), 'head'],
  ['Points', (each) => signed(each.effect.points), 'number'],
  ['95 % interval', (each) => fromTo(each.effect.ci95), 'number'],
  ['Only with', (each) => `${each.effect.gained} of ${each.effect.n}`, 'number'],
  ['Only without', (each) => whole(each.effect.lost), 'number'],
  ['p, corrected', (each) => pValue(each.p_adjusted).replace('p = ', '').replace('p ', ''), 'number'],
  ...(masked ? [['Among halves', (each) => (each.masks ? effectText(each.masks) : '–'), 'number']] : []),
  ['Prompt tokens per problem', (each) => whole(each.tokens.schema_read), 'number'],
  ['Left out with it', (each) => each.left_out.filter((name) => name !== each.name).join(', ') || '–'],
  ['Verdict', (each) => el('span', { class: `pill ${each.verdict === 'helps' ? 'accepted' : each.verdict === 'hurts' ? 'rolled-back' : ''}` }, each.verdict)],
], found.each);

// Like dotPlot, over an axis of percentage points that has zero in it.
function forest(rows) {
  return (width, label) => {
    const narrow = width < 560;
    const ends = rows.flatMap((row) => row.marks.flatMap((mark) => mark.value));
    const step = [5, 10, 20, 25, 50].find((each) => (Math.max(0, ...ends) - Math.min(0, ...ends)) / each <= (narrow ? 5 : 8)) || 50;
    const low = Math.min(-step, step * Math.floor(Math.min(...ends) / step));
    const high = Math.max(step, step * Math.ceil(Math.max(...ends) / step));
    const left = narrow ? 12 : Math.min(240, 30 + 7.4 * Math.max(...rows.map((row) => row.label.length)));
    const x = scale(low, high, left, width - (narrow ? 24 : 170));
    const heights = rows.map((row) => (narrow ? 26 : 12) + 20 * row.marks.length);
    const height = heights.reduce((sum, each) => sum + each, 8);
    const parts = Array.from({ length: Math.round((high - low) / step) + 1 }, (_, index) => low + index * step).map((tick) => [
      line(x(tick), 4, x(tick), height, tick === 0 ? 'axis' : 'grid'), text(x(tick), height + 18, tick === 0 ? '0' : signed(tick, 0), 'tick', 'middle')]);
    let top = 6;
    rows.forEach((row, index) => {
      const first = top + (narrow ? 30 : heights[index] / 2 - 10 * (row.marks.length - 1));
      parts.push(narrow ? text(left, top + 14, row.label, 'name') : text(left - 14, top + heights[index] / 2 + 4, row.label, 'name', 'end'));
      row.marks.forEach((mark, position) => {
        const y = first + 20 * position;
        parts.push(whisker(x, y, mark.value, mark.style, `${row.label}, ${mark.name}: ${signed(mark.value[0])} points (${fromTo(mark.value.slice(1))})`));
        if (!narrow) parts.push(text(x(mark.value[2]) + 9, y + 4, `${signed(mark.value[0])} ${mark.note || ''}`, `value ${mark.style}`));
      });
      top += heights[index];
    });
    return canvas(width, height + 26, label, parts);
  };
}
