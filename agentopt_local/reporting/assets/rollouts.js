// The rollout browser: a filtered list, of which only the visible rows exist, and the selected rollout.

const ROW = 52;
const FILTERS = ['stage', 'kind', 'fn', 'outcome', 'stop'];
const OUTCOMES = {
  right: ['right', (row) => row[2] >= 1], wrong: ['wrong', (row) => !(row[2] >= 1)],
  gained: ['gained by training', (row) => row[8] > 0], lost: ['lost by training', (row) => row[8] < 0],
};

function rollouts(run, browser) {
  const { rows } = run.rollouts;
  const lead = rows.length ? `All ${whole(rows.length)} attempts, with every turn, call and result. Use the arrow keys to move through the list.` : null;
  return section('rollouts', 'Rollouts', lead, browser ? browser.root : el('p', {}, 'There are none yet.'));
}

class Browser {
  constructor(run, index) {
    this.run = run;
    this.index = index;
    this.data = run.rollouts;
    this.found = [];
    this.selected = null;
    this.texts = null;
    this.controls = this.filters();
    this.status = el('p', { class: 'status', role: 'status' });
    this.space = el('div', { class: 'space' });
    this.list = el('div', { class: 'list', role: 'listbox', tabindex: '0', 'aria-label': 'Rollouts',
      onscroll: () => this.draw(), onkeydown: (event) => this.key(event) }, this.space);
    this.detail = el('div', { class: 'detail', tabindex: '-1', role: 'region', 'aria-label': 'The selected rollout', 'aria-live': 'off' });
    this.root = el('div', { class: 'browser' },
      el('form', { class: 'filters', role: 'search', 'aria-label': 'Filter rollouts', onsubmit: (event) => event.preventDefault() },
        Object.values(this.controls).map(({ label }) => label),
        el('button', { type: 'button', onclick: () => { this.restore(new URLSearchParams()); this.write(); } }, 'Clear')),
      el('div', { id: 'attempts' }, this.status), el('div', { class: 'panes' }, this.list, this.detail));
    new ResizeObserver(() => this.draw()).observe(this.list);
  }

  filters() {
    const { stages, kinds: kindNames, functions: names, stops } = this.data;
    const options = (values) => values.map((value) => [value, words(value)]);
    const plain = (values) => values.map((value) => [value, value]);
    const choice = (title, values) => {
      const input = el('select', { onchange: () => this.changed() }, el('option', { value: '' }, 'all'),
        values.map(([value, name]) => el('option', { value }, name)));
      return { input, label: el('label', {}, title, input) };
    };
    let timer = 0;
    const text = el('input', { type: 'search', placeholder: 'in questions, turns, results …', autocomplete: 'off', spellcheck: 'false',
      oninput: () => { clearTimeout(timer); timer = setTimeout(() => this.changed(), 150); } });
    return {
      stage: choice('Stage', plain(stages)), kind: choice('Kind', plain(kindNames.filter(Boolean))),
      fn: choice('Function called', [...plain(names), ['-', 'none']]),
      outcome: choice('Outcome', Object.entries(OUTCOMES).map(([key, [name]]) => [key, name])),
      stop: choice('Ended by', options(stops)), q: { input: text, label: el('label', { class: 'wide' }, 'Text', text) },
    };
  }

  value(name) { return this.controls[name].input.value; }

  // Set the filters and the selection from the address.
  restore(parameters) {
    for (const [name, { input }] of Object.entries(this.controls)) {
      input.value = parameters.get(name) || '';
      if (input.selectedIndex === -1) input.value = '';
    }
    const wanted = parameters.has('rollout') ? Number(parameters.get('rollout')) : null;
    this.selected = this.data.rows[wanted] ? wanted : null;
    return this.apply();
  }

  async apply() {
    const turn = (this.turn = (this.turn || 0) + 1);
    const text = this.value('q').trim().toLowerCase();
    if (text && canUnpack && !this.texts) {
      this.status.textContent = 'Reading all rollouts …';
      await this.readTexts();
      if (turn !== this.turn) return;
    }
    const test = this.test(text);
    this.found = this.data.rows.map((_, position) => position).filter(test);
    const total = this.data.rows.length;
    const right = this.found.filter((position) => this.data.rows[position][2] >= 1).length;
    this.status.textContent = this.found.length
      ? `${whole(this.found.length)} of ${plural(total, 'rollout')}, ${percent(right / this.found.length)} right`
      : 'No rollout matches. Widen the filters.';
    this.space.style.height = `${this.found.length * ROW}px`;
    this.list.scrollTop = 0;
    if (!this.found.includes(this.selected)) this.selected = this.found.length ? this.found[0] : null;
    this.reveal();
    await this.showDetail();
  }

  async changed() {
    await this.apply();
    this.write();
  }

  test(text) {
    const { stages, kinds: kindNames, problems, stops, functions: names } = this.data;
    const code = (values, name) => (this.value(name) ? values.indexOf(this.value(name)) : null);
    const [stage, kind, stop] = [code(stages, 'stage'), code(kindNames, 'kind'), code(stops, 'stop')];
    const fn = this.value('fn') === '-' ? -1 : code(names, 'fn');
    const outcome = OUTCOMES[this.value('outcome')]?.[1];
    return (position) => {
      const row = this.data.rows[position];
      return (stage === null || row[0] === stage) && (kind === null || problems[row[1]][1] === kind)
        && (stop === null || row[3] === stop) && (fn === null || (fn === -1 ? !row[4].length : row[4].includes(fn)))
        && (!outcome || outcome(row)) && (!text || this.haystack(position).includes(text));
    };
  }

  haystack(position) {
    const [name, , preview] = this.data.problems[this.data.rows[position][1]];
    return this.texts ? this.texts[position] : `${name} ${preview}`.toLowerCase();
  }

  async readTexts() {
    const questions = await Promise.all(this.data.problems.map((_, problem) => questionAt(this.index, problem)));
    const texts = [];
    for (let position = 0; position < this.data.rows.length; position += 1) {
      const [answer, reason, , , turns] = await rolloutAt(this.index, position);
      const problem = this.data.rows[position][1];
      texts.push([this.data.problems[problem][0], ...(questions[problem] || []), answer || '', reason, turns.flat(3).join(' ')].join(' ').toLowerCase());
    }
    this.texts = texts;
  }

  write() {
    const parameters = new URLSearchParams();
    if (DATA.runs.length > 1) parameters.set('run', this.index);
    for (const name of Object.keys(this.controls)) if (this.value(name)) parameters.set(name, this.value(name));
    if (this.selected !== null) parameters.set('rollout', this.selected);
    remember(parameters);
  }

  select(position, focus) {
    this.selected = position;
    this.reveal();
    this.showDetail(focus);
    this.write();
  }

  key(event) {
    const page = Math.floor(this.list.clientHeight / ROW) - 1;
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.found.length, End: this.found.length };
    if (event.key === 'Enter') this.detail.focus();
    if (!(event.key in moves) || !this.found.length) return;
    event.preventDefault();
    const to = this.found.indexOf(this.selected) + moves[event.key];
    this.select(this.found[Math.max(0, Math.min(this.found.length - 1, to))]);
  }

  // Scroll the list until the selected row is visible.
  reveal() {
    const top = this.found.indexOf(this.selected) * ROW;
    const below = top + ROW - this.list.scrollTop - this.list.clientHeight;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (below > 2 * ROW) this.list.scrollTop = top - this.list.clientHeight / 3; // a jump: show its neighbours too
    else if (below > 0) this.list.scrollTop += below;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - 5);
    const last = Math.min(this.found.length, first + Math.ceil(this.list.clientHeight / ROW) + 10);
    this.space.replaceChildren(...this.found.slice(first, last).map((position, offset) => this.row(position, first + offset)));
    const shown = document.getElementById(`row-${this.index}-${this.selected}`);
    if (shown) this.list.setAttribute('aria-activedescendant', shown.id);
    else this.list.removeAttribute('aria-activedescendant');
  }

  row(position, place) {
    const row = this.data.rows[position];
    const [name, , preview] = this.data.problems[row[1]];
    const called = row[4].map((each) => this.data.functions[each]).join(', ');
    const node = el('div', { class: 'row', role: 'option', id: `row-${this.index}-${position}`, 'aria-selected': String(position === this.selected),
      'aria-setsize': this.found.length, 'aria-posinset': place + 1,
      onclick: () => this.select(position, matchMedia('(max-width: 50rem)').matches) },
    verdictMark(row[2]),
    el('span', { class: 'row-name' }, name, row[8] !== 0 && el('span', { class: `change ${row[8] > 0 ? 'after' : 'bad'}` }, row[8] > 0 ? 'gained' : 'lost')),
    el('span', { class: 'row-note' }, [this.data.stages[row[0]], called && `ƒ ${called}`, preview].filter(Boolean).join(' · ')));
    node.style.transform = `translateY(${place * ROW}px)`;
    return node;
  }

  async showDetail(focus) {
    const position = this.selected;
    if (position === null) return this.detail.replaceChildren();
    if (!canUnpack) {
      return this.detail.replaceChildren(el('p', { class: 'note' }, 'This browser cannot unpack the turns. Chrome 80, Firefox 113, Safari 16.4 and newer versions can.'));
    }
    const row = this.data.rows[position];
    const [detail, question] = await Promise.all([rolloutAt(this.index, position), questionAt(this.index, row[1])]);
    if (position !== this.selected) return undefined;
    this.detail.replaceChildren(...rolloutView(this.data, row, detail, question));
    this.detail.scrollTop = 0;
    if (focus) {
      this.detail.scrollIntoView({ block: 'start' });
      this.detail.focus({ preventScroll: true });
    }
    return undefined;
  }
}

function verdictMark(reward) {
  const [sign, name, style] = reward >= 1 ? ['✓', 'right', 'after'] : reward > 0 ? ['◐', 'partly right', 'bad'] : ['✗', 'wrong', 'bad'];
  return el('span', { class: `verdict ${style}`, role: 'img', 'aria-label': name }, sign);
}

function rolloutView(data, row, [answer, reason, seed, set, turns, thoughts], question) {
  const facts = [data.stages[row[0]], data.kinds[data.problems[row[1]][1]], `ended by ${words(data.stops[row[3]])}`,
    plural(row[5], 'turn'), `${whole(row[6])} generated tokens${thoughts ? ` (${whole(thoughts)} in thoughts)` : ''}`, duration(row[7]), `seed ${seed}`, `function set ${set.slice(0, 8)}`];
  return [
    el('h3', {}, verdictMark(row[2]), ' ', data.problems[row[1]][0]),
    el('p', { class: 'muted' }, facts.filter(Boolean).join(' · ')),
    question ? el('blockquote', {}, question[0]) : el('p', { class: 'muted' }, 'The question was not recorded.'),
    el('dl', { class: 'answers' },
      el('div', {}, el('dt', {}, 'Answer'), el('dd', {}, answer === null ? 'none' : answer)),
      question && el('div', {}, el('dt', {}, 'Expected'), el('dd', {}, question[1])),
      el('div', {}, el('dt', {}, 'Reward'), el('dd', {}, row[2] === null ? 'not graded' : String(row[2]), reason && reason !== 'correct' ? `: ${reason}` : ''))),
    el('ol', { class: 'turns', 'aria-label': 'Turns' }, turns.map(turnView)),
  ];
}

const FENCE = /```(?:python|py)?[ \t]*\n[^]*?(?:```|$)/;

function turnView([content, executed, observations, thought], index) {
  const said = executed.some(([name]) => name === 'python') ? content.replace(FENCE, '').trim() : content.trim();
  return el('li', {}, el('p', { class: 'turn' }, `Turn ${index + 1}`),
    thought && el('details', { class: 'thought' }, el('summary', {}, 'Thought'), el('p', { class: 'said' }, thought)),
    said && el('p', { class: 'said' }, said),
    executed.map(([name, given, ok, result]) => el('div', { class: 'call' },
      el('p', {}, name === 'python' ? 'ran Python' : ['called ', el('code', {}, name)]), code(given),
      el('p', { class: ok ? 'muted' : 'bad' }, ok ? 'which returned' : 'which failed'), el('pre', { class: `code ${ok ? '' : 'failed'}`, tabindex: '0' }, result))),
    observations.map((each) => el('div', { class: 'call' }, el('p', { class: 'muted' }, 'was shown'), el('pre', { class: 'code', tabindex: '0' }, each))));
}
