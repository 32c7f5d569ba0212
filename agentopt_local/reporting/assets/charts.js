// SVG charts, drawn at the width of the page so that their text stays readable on a phone.

function figure(title, label, draw, data) {
  const plot = el('div', { class: 'plot' });
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(plot.clientWidth);
    if (now > 0 && now !== width) {
      width = now;
      plot.replaceChildren(draw(width, label));
    }
  }).observe(plot);
  return el('figure', {}, el('figcaption', {}, title), plot, data && fold('Show as a table', false, data));
}

const scale = (from, to, start, end) => (value) => start + ((value - from) / (to - from || 1)) * (end - start);

function ticks(top, about) {
  const rough = top / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, index) => index * step);
}

const canvas = (width, height, label, ...children) =>
  svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label }, children);
const line = (x1, y1, x2, y2, style) => svg('line', { x1, y1, x2, y2, class: style });
const text = (x, y, content, style, anchor = 'start') => svg('text', { x, y, class: style, 'text-anchor': anchor }, content);
const hint = (mark, content) => (mark.append(svg('title', {}, content)), mark);

// A point with its horizontal interval.
function whisker(x, y, [value, low, high], style, content) {
  return hint(svg('g', { class: style },
    line(x(low), y, x(high), y, 'whisker'), line(x(low), y - 4, x(low), y + 4, 'whisker'), line(x(high), y - 4, x(high), y + 4, 'whisker'),
    svg('circle', { cx: x(value), cy: y, r: 5.5, class: 'dot' })), content);
}

// Rows of {label, note, marks: [{name, style, value: [share, low, high]}]} over one axis of 0 to 100 %.
function dotPlot(rows) {
  return (width, label) => {
    const narrow = width < 560;
    const left = narrow ? 12 : Math.min(240, 30 + 7.4 * Math.max(...rows.map((row) => row.label.length)));
    const x = scale(0, 1, left, width - (narrow ? 16 : 24));
    const heights = rows.map((row) => (narrow ? 26 : 12) + 20 * row.marks.length);
    const height = heights.reduce((sum, each) => sum + each, 8);
    const parts = [0, 0.25, 0.5, 0.75, 1].map((tick) => [
      line(x(tick), 4, x(tick), height, 'grid'), text(x(tick), height + 18, percent(tick), 'tick', 'middle')]);
    let top = 6;
    rows.forEach((row, index) => {
      if (index && row.marks.length > 1) parts.push(line(narrow ? 0 : 20, top, width, top, 'grid'));
      const first = top + (narrow ? 30 : heights[index] / 2 - 10 * (row.marks.length - 1));
      parts.push(narrow ? text(left, top + 14, row.label, 'name') : text(left - 14, top + heights[index] / 2 + 4, row.label, 'name', 'end'));
      row.marks.forEach((mark, position) => {
        const y = first + 20 * position;
        const [value, low, high] = mark.value;
        parts.push(whisker(x, y, mark.value, mark.style, `${row.label} ${mark.name}: ${tidyPercent(value)} (${tidyPercent(low)} to ${tidyPercent(high)})`));
        const right = x(high) + 8 < width - 48;
        parts.push(text(right ? x(high) + 9 : x(low) - 9, y + 4, tidyPercent(value), `value ${mark.style}`, right ? 'start' : 'end'));
      });
      top += heights[index];
    });
    return canvas(width, height + 26, label, parts);
  };
}

// The accuracy of the kept functions at each step, from the steps in the data.
function kept(steps) {
  const points = steps.map((step) => step.before);
  const last = steps.at(-1);
  return [...points, last.decision === 'accepted' ? last.after : last.before];
}

const MARKS = {
  accepted: (x, y) => svg('circle', { cx: x, cy: y, r: 6.5 }),
  rolled_back: (x, y) => svg('path', { d: `M${x - 7} ${y - 6}h14l-7 12z` }),
  skipped: (x, y) => svg('path', { d: `M${x} ${y - 6.5}l6.5 6.5l-6.5 6.5l-6.5-6.5z` }),
};

function curveFrame(width, steps, top) {
  const [left, bottom, height] = [46, 44, Math.round(Math.max(260, Math.min(400, width * 0.44)))];
  const x = scale(0, steps, left + 12, width - 22);
  const y = scale(0, top, height - bottom, 14);
  const every = Math.max(1, Math.ceil(steps / Math.max(2, (width - 80) / 44)));
  const parts = [
    ticks(top, 5).map((tick) => [line(left, y(tick), width - 10, y(tick), 'grid'), text(left - 8, y(tick) + 4, percent(tick), 'tick', 'end')]),
    Array.from({ length: steps + 1 }, (_, step) => step).filter((step) => step % every === 0)
      .map((step) => [line(x(step), y(0), x(step), y(0) + 5, 'axis'), text(x(step), y(0) + 20, step === 0 ? 'start' : String(step), 'tick', 'middle')]),
    line(left, y(0), width - 10, y(0), 'axis'),
    text((left + width) / 2, height - 4, 'step', 'tick', 'middle'),
  ];
  return { x, y, height, parts };
}

const highest = (steps) => Math.min(1, 0.1 + Math.max(0.3, ...steps.flatMap((step) => [step.before[2], step.after[2]])));

function bandAndLine(points, x, y, style) {
  const upper = points.map(([, , high], step) => `${x(step)} ${y(high)}`);
  const lower = points.map(([, low], step) => `${x(step)} ${y(low)}`).reverse();
  return [
    svg('path', { d: `M${[...upper, ...lower].join('L')}Z`, class: `band ${style}` }),
    svg('path', { d: `M${points.map(([value], step) => `${x(step)} ${y(value)}`).join('L')}`, class: `curve ${style}` }),
  ];
}

const stepLabel = (step) =>
  `Step ${step.step}: ${words(step.decision)}, ${tidyPercent(step.before[0])} to ${tidyPercent(step.after[0])} on ${plural(step.after[3], 'problem')}`;

function learningCurve(steps) {
  return (width, label) => {
    const { x, y, height, parts } = curveFrame(width, steps.length, highest(steps));
    const points = kept(steps);
    parts.push(bandAndLine(points, x, y, 'after'));
    parts.push(svg('circle', { cx: x(0), cy: y(points[0][0]), r: 3.5, class: 'after fill' }));
    steps.forEach((step, index) => {
      const at = index + 1;
      const [value, low, high] = step.after;
      const group = svg('g', { class: `mark ${step.decision}` });
      if (step.decision !== 'accepted' && value !== step.before[0]) {
        group.append(line(x(index), y(step.before[0]), x(at), y(value), 'tried'));
      }
      if (step.decision === 'rolled_back') group.append(line(x(at), y(low), x(at), y(high), 'whisker'));
      group.append(MARKS[step.decision](x(at), y(value)));
      parts.push(hint(group, stepLabel(step)));
    });
    return canvas(width, height, label, parts);
  };
}

// Several runs in one plot, each with its own colour, dash and label at the end.
function manyCurves(runs) {
  return (width, label) => {
    const shown = runs.filter((run) => run.steps.length);
    const longest = Math.max(...shown.map((run) => run.steps.length));
    const { x, y, height, parts } = curveFrame(width, longest, Math.max(...shown.map((run) => highest(run.steps))));
    const taken = [];
    for (const run of shown) {
      const points = kept(run.steps);
      const style = `run-${runs.indexOf(run) % 6}`;
      parts.push(bandAndLine(points, x, y, style));
      run.steps.forEach((step, index) => parts.push(hint(
        svg('g', { class: `mark ${step.decision} ${style}` }, MARKS[step.decision](x(index + 1), y(step.after[0]))), `${run.name} ${stepLabel(step)}`)));
      let at = Math.max(24, y(points.at(-1)[0]) - 14);
      while (taken.some((other) => Math.abs(other - at) < 15)) at += 15;
      taken.push(at);
      const room = points.length - 1 < 0.6 * longest;
      parts.push(text(x(points.length - 1) + (room ? 12 : -4), at, run.name.slice(0, 40), `name ${style}`, room ? 'start' : 'end'));
    }
    return canvas(width, height, label, parts);
  };
}

function throughputChart(points) {
  return (width, label) => {
    const [left, height] = [58, 200];
    const last = points.at(-1)[0] || 1;
    const top = 1.1 * Math.max(1, ...points.map((point) => point[1]));
    const x = scale(0, last, left, width - 14);
    const y = scale(0, top, height - 40, 10);
    const path = points.map(([seconds, rate]) => `${x(seconds)} ${y(rate)}`).join('L');
    return canvas(width, height, label,
      ticks(top, 4).map((tick) => [line(left, y(tick), width - 10, y(tick), 'grid'), text(left - 8, y(tick) + 4, whole(tick), 'tick', 'end')]),
      ticks(last, Math.max(2, width / 140)).map((tick) => text(x(tick), height - 20, duration(tick), 'tick', 'middle')),
      svg('path', { d: `M${x(points[0][0])} ${y(0)}L${path}L${x(last)} ${y(0)}Z`, class: 'band after' }),
      svg('path', { d: `M${path}`, class: 'curve after' }), line(left, y(0), width - 10, y(0), 'axis'),
      text((left + width) / 2, height - 2, 'working time', 'tick', 'middle'));
  };
}
