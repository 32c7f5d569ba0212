// The baselines side by side with the trained agent, and the noise floor.

const ARMS = {
  placebo: ['Placebo function', 'one function that does nothing useful'],
  self_consistency: ['Votes, tokens of the test', 'majority votes of the untrained agent'],
  self_consistency_total: ['Votes, tokens of training and test', 'majority votes of the untrained agent'],
  one_shot: ['First proposal', 'the set that the optimizer proposed first'],
};
const armName = (arm) => (ARMS[arm.name] || [arm.name])[0];
const SAME_SET = 'same set';

function baselines(run) {
  const result = run.results[0];
  if (!result || !result.arms.length) return null;
  const untrained = { label: 'Untrained', result: result.before, difference: result.difference, same_set: result.same_set };
  const arms = [untrained, ...result.arms.map((arm) => ({ ...arm, label: armName(arm) }))];
  const measured = arms.filter((arm) => arm.result);
  const mark = (style, side) => [{ name: '', style, value: [side.accuracy, ...side.ci95] }];
  const rows = [...measured.map((arm) => ({ label: arm.label, marks: mark('before', arm.result) })),
    { label: 'Trained', marks: mark('after', result.after) }];
  const change = (show) => (arm) => (arm.difference && !arm.same_set ? show(arm.difference) : arm.same_set ? SAME_SET : '–');
  return section('baselines', 'Baselines',
    `The same ${plural(result.n, `${SPLITS[result.split]} problem`)} for all. Each change is the trained agent’s against that baseline, problem by problem.`,
    figure('Accuracy of each agent, with 95 % Wilson intervals',
      rows.map((row) => `${row.label}: ${tidyPercent(row.marks[0].value[0])}`).join('. '), dotPlot(rows)),
    table('Baselines', [
      ['Baseline', (arm) => arm.label, 'head'],
      ['Accuracy, 95 % interval', (arm) => (arm.result ? `${tidyPercent(arm.result.accuracy)} (${interval(arm.result.ci95)})` : '–'), 'number'],
      ['Trained agent’s change in points', change((each) => `${signed(each.points)} (${points(each.ci95)})`), 'number'],
      ['Chance', change((each) => pValue(each.p_value)), 'number'],
      ['What it is', armNote],
    ], arms));
}

function armNote(arm) {
  if (arm.name === undefined) return 'no functions';
  const note = (ARMS[arm.name] || ['', ''])[1];
  if (arm.votes === null) return note;
  if (!arm.votes) return `not even one vote per problem fits into ${whole(arm.budget)} tokens`;
  return `${note}: ${plural(arm.votes, 'vote')} per problem within ${whole(arm.budget)} tokens`;
}

function noise(run) {
  const floor = run.noise_floor;
  if (!floor) return null;
  const share = (count, bounds) => `${count} (${interval(bounds)})`;
  const seen = [floor.train, floor.test].filter(Boolean);
  const kinds = ['training', 'held\u2011out'];
  return section('noise', 'Noise floor',
    `Measured before step 1 on ${plural(floor.n, 'training problem')}: how many outcomes change although nothing was learned.`,
    el('dl', { class: 'facts' }, seen.map((each, index) => fact(`${whole(each.n)} ${kinds[index]}`,
      each.points < 100 ? `${Math.round(each.points)} points` : 'too few',
      `the smallest gain they can show; ${Math.round(each.at_most)} if chance is at the upper end of its interval`))),
    table('Outcomes that change by chance', [
      ['Second run', (row) => row.label, 'head'],
      ['Changed', (row) => tidyPercent(row.flips.rate), 'number'],
      ['95 % interval', (row) => interval(row.flips.ci95), 'number'],
      ['Gained', (row) => share(row.flips.gained, row.flips.gained_ci95), 'number'],
      ['Lost', (row) => share(row.flips.lost, row.flips.lost_ci95), 'number'],
    ], [{ label: 'The same agent, another seed', flips: floor.again },
      { label: 'With a placebo function', flips: floor.placebo }]));
}
