"use strict";
// Shows what a sampler did, frame by frame. Frames come all at once or one by one. Whatever a model has said is set as
// text, never as HTML.
const make = (tag, fields = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};
const drawn = (tag, fields, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(fields)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const number = (value, digits = 2) => (value === null || value === undefined ? "−∞" : value.toFixed(digits).replace("-", "−"));
const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const shares = weights => {
  const known = weights.filter(w => w !== null), top = Math.max(...known);
  const raw = weights.map(w => (w === null ? 0 : Math.exp(w - top))), total = raw.reduce((a, b) => a + b, 0);
  return raw.map(w => (total ? w / total : 0));
};

class Trace {
  constructor(root) {
    this.frames = []; this.states = []; this.at = -1; this.timer = null; this.root = root;
    const button = (text, label, action) => make("button", { type: "button", textContent: text, ariaLabel: label, onclick: action });
    this.slider = make("input", { type: "range", min: 0, max: 0, value: 0, className: "grow", ariaLabel: "Step", oninput: () => { this.pause(); this.show(Number(this.slider.value)); } });
    this.playing = button("Play", "Play", () => (this.timer ? this.pause() : this.play()));
    this.place = make("span", { className: "soft" });
    this.caption = make("p", { role: "status" });
    this.facts = make("dl", { className: "facts" });
    this.body = make("div"); this.genealogy = make("div"); this.curve = make("div");
    root.replaceChildren(
      make("div", { className: "row", role: "group", ariaLabel: "Steps of the sampler" },
        button("«", "First step", () => { this.pause(); this.show(0); }), button("‹", "Step back", () => { this.pause(); this.show(this.at - 1); }),
        this.playing, button("›", "Step on", () => { this.pause(); this.show(this.at + 1); }),
        button("»", "Last step", () => { this.pause(); this.show(this.frames.length - 1); }), this.slider, this.place),
      this.caption, this.facts, this.body, this.genealogy, this.curve);
    this.clear();
  }
  clear() {
    this.pause(); this.frames = []; this.states = []; this.at = -1;
    this.slider.max = 0; this.place.textContent = ""; this.caption.textContent = "No step yet.";
    for (const part of [this.facts, this.body, this.genealogy, this.curve]) part.replaceChildren();
  }
  // Follows the newest frame as long as the last one is shown.
  add(...frames) {
    const follows = this.at === this.frames.length - 1;
    for (const frame of frames) { this.states.push(after(this.states.at(-1), frame, this.frames.length)); this.frames.push(frame); }
    this.slider.max = Math.max(0, this.frames.length - 1);
    if (follows) this.show(this.frames.length - 1); else this.place.textContent = `${this.at + 1} of ${this.frames.length}`;
  }
  play() {
    if (this.at >= this.frames.length - 1) this.show(0);
    this.playing.textContent = "Pause"; this.playing.ariaLabel = "Pause";
    this.timer = setInterval(() => (this.at < this.frames.length - 1 ? this.show(this.at + 1) : this.pause()), 700);
  }
  pause() {
    clearInterval(this.timer); this.timer = null;
    this.playing.textContent = "Play"; this.playing.ariaLabel = "Play";
  }
  show(at) {
    if (!this.frames.length) return;
    this.at = Math.max(0, Math.min(this.frames.length - 1, at));
    const frame = this.frames[this.at], state = this.states[this.at];
    this.slider.value = this.at;
    this.place.textContent = `${this.at + 1} of ${this.frames.length}`;
    this.caption.textContent = words(frame);
    this.facts.replaceChildren(...facts(frame, state));
    this.body.replaceChildren(...bodies(frame, state, this.states[this.at - 1]));
    this.genealogy.replaceChildren(...genealogy(this.frames, this.at));
    this.curve.replaceChildren(...curve(this.states, this.at));
  }
}

// ------------------------------------------------------------ the record read

// What is known after a frame: the chain that will answer, what was tried and accepted, the points of the curve.
function after(before, frame, index) {
  const state = { chain: before ? before.chain : null, tried: before ? before.tried : 0, accepted: before ? before.accepted : 0, points: [] };
  const goes = taken(frame);
  if (frame.kind === "moved" && frame.of === 0) { state.tried += 1; state.accepted += frame.accepted === null ? 0 : 1; }
  if (goes !== null && frame.of === 0) state.chain = frame.chains[goes];
  frame.chains.forEach((chain, i) => {
    if (chain.end === "floor" || (frame.of && frame.kind !== "weighed")) return;
    state.points.push({ x: index, y: chain.logp, isTaken: frame.kind === "weighed" || i === goes });
  });
  return state;
}

// Which chain of a frame goes on; null: the one before.
function taken(frame) {
  if (frame.kind === "extended") return 0;
  if (frame.kind === "moved") return frame.accepted;
  if (frame.kind === "swapped") return frame.is_accepted ? 0 : null;
  return frame.kind === "chosen" ? frame.chosen : null;
}

function words(frame) {
  const which = frame.of && frame.kind !== "weighed" ? `Chain ${frame.of}: ` : "";
  const from = `from token ${frame.cut}`;
  switch (frame.kind) {
    case "extended": return `${which}Continued ${from}, ${count(frame.chains[0].length - frame.cut, "token")}.`;
    case "moved": {
      const done = frame.accepted === null ? "rejected" : "accepted";
      const given = frame.chains.length > 1 ? `${frame.chains.length} suffixes redrawn ${from}` : `Suffix redrawn ${from}`;
      if (frame.log_ratio === undefined || frame.log_u === null) return `${which}${given}: ${done} by weight.`;
      const bound = frame.chains.some(c => c.end === "floor") ? "≤ " : "";
      const ratio = frame.log_ratio === null && frame.accepted !== null ? "∞" : number(frame.log_ratio); // JSON has neither
      return `${which}${given}: ${done}. Log ratio ${bound}${ratio}, log u ${number(frame.log_u)}.`;
    }
    case "swapped": return `Chains ${frame.of} and ${frame.of + 1}: ${frame.is_accepted ? "swapped" : "not swapped"}. Log ratio ${number(frame.log_ratio)}, log u ${number(frame.log_u)}.`;
    case "weighed": return `${frame.of ? `Run ${frame.of}: ` : ""}${count(frame.chains.length, "particle")} grown ${from}, ${frame.ancestors ? `resampled: ${new Set(frame.ancestors).size} have offspring` : "not resampled"}. Effective sample size ${number(frame.ess, 1)}.`;
    default: return `${which}Candidate ${frame.chosen + 1} of ${frame.chains.length} was ${frame.weights ? "drawn by weight" : "taken"}.`;
  }
}

// ------------------------------------------------------------ the parts of the view

function facts(frame, state) {
  const known = { "log p": state.chain ? number(state.chain.logp) : "", tokens: state.chain ? state.chain.length : "" };
  if (state.tried) known.accepted = `${state.accepted} of ${state.tried}`;
  if (frame.kind === "weighed") known.ESS = `${number(frame.ess, 1)} of ${frame.chains.length}`;
  known.decoded = frame.tokens_decoded; known["serial steps"] = frame.serial_steps;
  return Object.entries(known).filter(([, value]) => value !== "").map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })));
}

function text(kept, changed, tag) {
  const shown = make("div", { className: "text", tabIndex: 0 }, kept);
  if (changed) shown.append(make(tag, { textContent: changed }));
  return shown;
}

function bodies(frame, state, before) {
  const title = name => make("h3", { textContent: name });
  if (frame.kind === "extended") return [title("Chain"), text(frame.chains[0].kept, frame.chains[0].new, "ins")];
  if (frame.kind === "moved" && frame.chains.length === 1 && frame.accepted === null) {
    const kept = state.chain && !frame.of ? [title("Chain, as before"), text(state.chain.kept + state.chain.new)] : [];
    return [...kept, title("Rejected"), text(frame.chains[0].kept, frame.chains[0].new || "(nothing)", "del")];
  }
  if (frame.kind === "moved" && frame.chains.length === 1) {
    const old = before && before.chain && !frame.of ? before.chain.kept + before.chain.new : "";
    const was = old ? [title("Before"), text(old.slice(0, frame.chains[0].kept.length), old.slice(frame.chains[0].kept.length), "del")] : [];
    return [title("Chain, redrawn"), text(frame.chains[0].kept, frame.chains[0].new, "ins"), ...was];
  }
  return [title({ weighed: "Particles", chosen: "Candidates", swapped: "Chains afterwards" }[frame.kind] || "Proposals"), candidates(frame)];
}

function candidates(frame) {
  const share = frame.log_weights ? shares(frame.log_weights) : frame.weights ? shares(frame.weights.map(w => (w ? Math.log(w) : null))) : null;
  const goes = taken(frame), offspring = i => frame.ancestors.filter(a => a === i).length;
  const items = frame.chains.map((chain, i) => {
    const says = [share ? `${(100 * share[i]).toFixed(1)}%` : `log p ${number(chain.logp, 1)}`];
    if (frame.ancestors) says.push(`${offspring(i)} on`);
    if (i === goes) says.push(frame.kind === "moved" ? "accepted" : "taken");
    const head = make("div", { className: "soft" }, `${i + 1}: ${says.join(", ")}`);
    if (share) { const fill = make("div"); fill.style.width = `${100 * share[i]}%`; head.append(make("div", { className: "bar", ariaHidden: "true" }, fill)); }
    const isGone = frame.kind === "moved" ? i !== goes : Boolean(frame.ancestors) && !offspring(i);
    const shown = frame.kind === "chosen" && i !== goes ? text(chain.kept + chain.new) : text(chain.kept, chain.new, isGone ? "del" : "ins");
    return make("li", { className: i === goes ? "taken" : "" }, head, shown);
  });
  return make("ol", { className: "particles", tabIndex: 0, ariaLabel: "Chains of this step" }, ...items);
}

// The generations of the particles up to a frame: who descends from whom, and who has descendants at the end.
function genealogy(frames, at) {
  const last = frames.slice(0, at + 1).findLast(f => f.kind === "weighed");
  if (!last) return [];
  const all = frames.slice(0, at + 1).filter(f => f.kind === "weighed" && f.of === last.of);
  const columns = all.slice(all.findLastIndex(f => f.is_first)), n = last.chains.length, dx = 46, dy = n > 24 ? 12 : 18;
  const alive = columns.map(() => new Set());
  last.chains.forEach((_, i) => alive[columns.length - 1].add(i));
  for (let k = columns.length - 1; k > 0; k--) for (const i of alive[k]) alive[k - 1].add(parent(columns[k - 1], i));
  const width = 30 + dx * columns.length, height = 14 + dy * n, x = k => 20 + dx * k, y = i => 14 + dy * i;
  const says = `Genealogy of ${count(n, "particle")} over ${count(columns.length, "block")}: ${alive[0].size} of the first generation have descendants.`;
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": says });
  columns.forEach((frame, k) => {
    if (k) frame.chains.forEach((_, i) => {
      const from = parent(columns[k - 1], i), [x0, y0, x1, y1] = [x(k - 1), y(from), x(k), y(i)];
      svg.append(drawn("path", { class: alive[k].has(i) ? "edge alive" : "edge", d: `M${x0} ${y0} C${x0 + dx / 2} ${y0} ${x1 - dx / 2} ${y1} ${x1} ${y1}` }));
    });
  });
  columns.forEach((frame, k) => shares(frame.log_weights).forEach((share, i) => {
    const title = drawn("title", {}); title.textContent = `${i + 1}: ${(100 * share).toFixed(1)}% ${frame.chains[i].new}`;
    svg.append(drawn("circle", { class: alive[k].has(i) ? "node alive" : "node", cx: x(k), cy: y(i), r: 2 + (dy / 2 - 2) * Math.sqrt(share) }, title));
  }));
  return [make("h3", { textContent: "Genealogy" }), make("p", { className: "soft", textContent: says }),
    make("div", { className: "drawing", tabIndex: 0, role: "group", ariaLabel: "Genealogy" }, svg)];
}
const parent = (generation, i) => (generation.ancestors ? generation.ancestors[i] : i);

function curve(states, at) {
  const points = states.flatMap(s => s.points), values = points.map(p => p.y);
  if (!values.length) return [];
  const width = 640, height = 180, low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  const x = i => 46 + (width - 60) * (states.length > 1 ? i / (states.length - 1) : .5), y = v => 12 + (height - 36) * (1 - (v - low) / span);
  const svg = drawn("svg", { class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `log p against steps, from ${number(low)} to ${number(high)}` });
  const label = (tx, ty, says) => { const t = drawn("text", { x: tx, y: ty }); t.textContent = says; svg.append(t); };
  svg.append(drawn("path", { class: "axis", d: `M46 12V${height - 24}H${width - 14}` }), drawn("path", { class: "now", d: `M${x(at)} 12V${height - 24}` }));
  label(2, 16, number(high, 1)); label(2, height - 24, number(low, 1)); label(46, height - 8, "step 1"); label(width - 60, height - 8, `step ${states.length}`);
  const line = states.map((s, i) => (s.chain ? `${x(i)} ${y(Math.max(low, Math.min(high, s.chain.logp)))}` : null)).filter(Boolean);
  if (line.length > 1) svg.append(drawn("path", { class: "chain", d: `M${line.join("L")}` }));
  for (const p of points) svg.append(drawn("circle", { class: p.isTaken ? "dot" : "no", cx: x(p.x), cy: y(p.y), r: 3 }));
  return [make("h3", { textContent: "log p against steps" }), make("div", { className: "drawing", tabIndex: 0, role: "group", ariaLabel: "log p against steps" }, svg)];
}
