// Curves of the training, drawn from the numbers in the page. One step is under the cursor in all of
// them at once; arrow keys move it too.
const PLOT = { width: 460, height: 220, left: 46, right: 10, top: 8, bottom: 24 };
// By name, so that a role, a pattern or an outcome looks the same in every chart; mid-tones, which can
// be read on white and on black.
const COLOURS = {
  designer: "#3f7fc4", executor: "#d0691f", correct: "#3d9a64", ok: "#3d9a64",
  single: "#8b95a5", vote: "#7d6cc0", judge: "#b85f95", reflect: "#b98a16", debate: "#c4534c", chain: "#5aa3d8",
  pipeline: "#2f9bb0", map: "#6b9a3c", router: "#8c6d46", mixed: "#4f63b5", other: "#6b7280", single_agent: "#8b95a5",
  no_script: "#6b7280", syntax_error: "#c4534c", rejected: "#b98a16", crashed: "#9c3f6b", timeout: "#7d6cc0", memory: "#8c6d46",
  call_budget: "#d98a4a", token_budget: "#d9a066", no_answer: "#2f9bb0", no_calls: "#5aa3d8",
};
const WINDOW = 5;  // steps of the running mean that is drawn over the raw line
const SPARE = ["#7d6cc0", "#b98a16", "#2f9bb0", "#b85f95", "#8b95a5", "#c4534c", "#8c6d46", "#3f7fc4"];
const cursors = [];  // of each chart: (step or null) => its cursor moves there

const signal = (line) => Object.fromEntries(Object.entries(line.groups ?? {})
  .map(([role, g]) => [role, g.total ? g.signal / g.total : null]));

// Sections: name, what to know, charts. A chart's `of` gives a line's values by the name of a series, its
// `band` the least and the most of each.
const CURVES = [
  ["Learning", "Thin: each step; bold: mean of the last five.", [
    { title: "Held-out accuracy", measured: true, top: 1, band: (p) => ({ correct: [p.low, p.high] }) },
    { title: "Executions correct, scripts valid", of: (l) => ({ correct: l.correct, "valid scripts": l.valid_scripts }), top: 1 },
    { title: "Mean reward", of: (l) => l.reward },
    { title: "Completion length, tokens", of: (l) => l.completion_length },
  ]],
  ["Outcomes and patterns", "Every outcome but ok earns no reward.", [
    { title: "Outcomes, share of executions", of: (l) => l.outcomes, stack: "share" },
    { title: "Patterns, share of designs", of: (l) => l.patterns, stack: "share" },
  ]],
  ["The update", "", [
    { title: "Loss", of: (l) => ({ loss: l.loss }), signed: true },
    { title: "Gradient norm", of: (l) => ({ "gradient norm": l.grad_norm }) },
    { title: "Entropy, nats a token", of: (l) => l.entropy },
    { title: "Learning rate", of: (l) => ({ "learning rate": l.lr }) },
    { title: "Share of tokens clipped", of: (l) => l.clipped },
    { title: "Log-prob in training minus as sampled, mean size", of: (l) => l.logp_gap },
  ]],
  ["Health of the signal", "Only a group whose rewards differ has signal and teaches.", [
    { title: "Share of groups with signal", of: signal, top: 1 },
    { title: "Spread of rewards, standard deviation", of: (l) => ({ "within a design": l.spread?.intra, "between designs": l.spread?.inter }) },
    { title: "Share of completions truncated", of: (l) => l.truncated },
    { title: "Share of paid answers that stand in the question", of: (l) => ({ "right and in the question": l.paid_in_question }), top: 1 },
  ]],
  ["Cost", "", [
    { title: "Seconds a step, by phase", of: (l) => l.seconds, stack: "sum" },
    { title: "Tokens a step", of: (l) => l.tokens, stack: "sum" },
  ]],
];

const digits = (value) => (value === 0 ? "0" : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en")
  : Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3))));

// Round numbers from low to high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => power * factor >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

// A colour by name; a name without one takes a spare one that its chart does not use yet.
function colours(names) {
  const taken = new Map(names.filter((name) => COLOURS[name]).map((name) => [name, COLOURS[name]]));
  for (const name of names) {
    if (taken.has(name)) continue;
    const start = [...name].reduce((sum, letter) => sum + letter.charCodeAt(0), 0);
    const order = SPARE.map((_, i) => SPARE[(start + i) % SPARE.length]);
    taken.set(name, order.find((one) => ![...taken.values()].includes(one)) ?? order[0]);
  }
  return taken;
}

// The mean of the last known values at each step.
function smooth(values) {
  const known = [];
  return values.map((value) => {
    if (value !== null) known.push(value);
    const last = known.slice(-WINDOW);
    return last.length ? last.reduce((a, b) => a + b, 0) / last.length : null;
  });
}

function path(steps, values, x, y) {
  let pen = "M";
  return values.map((value, i) => {
    if (value === null) { pen = "M"; return ""; }
    const point = `${pen}${x(steps[i]).toFixed(1)},${y(value).toFixed(1)}`;
    pen = "L";
    return point;
  }).join("");
}

function chart(spec, data) {
  const lines = spec.measured ? data.measured : data.lines;
  const steps = lines.map((line) => line.step);
  const rows = spec.measured ? lines.map((point) => ({ correct: point.accuracy })) : lines.map((line) => spec.of(line) ?? {});
  const all = [...new Set(rows.flatMap(Object.keys))];
  const series = new Map(all.map((name) => [name, rows.map((row) => row[name] ?? null)]));
  for (const [name, values] of series) {
    if (!values.some((value) => value !== null && !(spec.stack && value === 0))) series.delete(name);
  }
  if (!series.size || (spec.measured && steps.length < 2)) return null;
  const names = [...series.keys()];
  const total = (name) => series.get(name).reduce((sum, value) => sum + (value ?? 0), 0);
  if (spec.stack) names.sort((a, b) => total(b) - total(a));
  const colour = colours(names);

  const stacked = [];  // [name, lower edge, upper edge] at each step
  if (spec.stack) {
    const totals = steps.map((_, i) => names.reduce((sum, name) => sum + (series.get(name)[i] ?? 0), 0));
    let base = steps.map(() => 0);
    for (const name of names) {
      const above = series.get(name).map((v, i) => base[i] + (spec.stack === "share" ? (v ?? 0) / (totals[i] || 1) : v ?? 0));
      stacked.push([name, base, above]);
      base = above;
    }
  }
  const values = spec.stack ? stacked.at(-1)[2] : [...series.values()].flat().filter((v) => v !== null);
  const least = spec.signed ? Math.min(0, ...values) : 0;
  const most = spec.top ?? (spec.stack === "share" ? 1 : Math.max(0, ...values) * 1.05 || 0.1);
  const first = spec.measured ? Math.min(...steps) : steps[0], last = data.lines.at(-1).step;
  const x = (step) => PLOT.left + (step - first + 0.5) / (last - first + 1) * (PLOT.width - PLOT.left - PLOT.right);
  const y = (value) => PLOT.top + (most - value) / (most - least || 1) * (PLOT.height - PLOT.top - PLOT.bottom);

  const title = element("title", {}, `${spec.title}, steps ${first} to ${last}`);
  const drawing = element("svg", { viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", tabindex: 0, class: "curve" }, title);
  const put = (name, attributes, ...children) => drawing.append(element(name, attributes, ...children));
  if (!spec.stack) shade(data.lines, x, put);
  for (const value of ticks(least, most, 4)) {
    put("path", { class: "grid", d: `M${PLOT.left},${y(value)}H${PLOT.width - PLOT.right}` });
    put("text", { x: PLOT.left - 6, y: y(value) + 4, "text-anchor": "end" }, digits(Number(value.toPrecision(6))));
  }
  for (const step of ticks(first, last, 6).filter(Number.isInteger)) {
    put("text", { x: x(step), y: PLOT.height - 8, "text-anchor": "middle" }, String(step));
  }
  for (const [name, lower, upper] of stacked) {
    const edge = (of, i) => `${x(steps[i] - 0.5).toFixed(1)},${y(of[i]).toFixed(1)} ${x(steps[i] + 0.5).toFixed(1)},${y(of[i]).toFixed(1)}`;
    const back = (i) => `${x(steps[i] + 0.5).toFixed(1)},${y(lower[i]).toFixed(1)} ${x(steps[i] - 0.5).toFixed(1)},${y(lower[i]).toFixed(1)}`;
    const d = steps.map((_, i) => edge(upper, i)).join(" L") + " L" + steps.map((_, i) => back(steps.length - 1 - i)).join(" L");
    put("path", { d: `M${d}Z`, fill: colour.get(name) });
  }
  const band = (name, index) => spec.band?.(lines[index])[name];
  for (const name of spec.band ? names : []) {
    const edge = (side) => steps.flatMap((step, i) => (band(name, i) ? [`${x(step)},${y(band(name, i)[side])}`] : []));
    if (edge(1).length) put("path", { d: `M${[...edge(1), ...edge(0).reverse()].join("L")}Z`, fill: colour.get(name), opacity: 0.18 });
  }
  for (const name of spec.stack ? [] : names) {
    const own = series.get(name), stroke = colour.get(name), d = path(steps, own, x, y);
    put("path", { d, class: spec.measured ? "mean" : "raw", stroke });
    if (!spec.measured) put("path", { d: path(steps, smooth(own), x, y), class: "mean", stroke });
    if (steps.length < 50) {
      own.forEach((v, i) => v !== null && put("path", { class: "dot", stroke, d: `M${x(steps[i])},${y(v)}h0` }));
    }
  }
  const line = element("path", { class: "cursor" });
  drawing.append(line);
  cursors.push((step) => line.setAttribute("d", step === null || step < first ? "" : `M${x(step)},${PLOT.top}V${PLOT.height - PLOT.bottom}`));

  const swatch = (name) => element("i", { style: `background:${colour.get(name)}` });
  const legend = element("p", { class: "legend" }, ...names.map((name) => element("span", {}, swatch(name), spec.measured ? "accuracy, 95 % interval" : name.replaceAll("_", " "))));
  const tip = element("p", { class: "tip", role: "status", hidden: "" });
  const figure = element("figure", { class: "chart" }, element("figcaption", {}, spec.title), legend, drawing, tip);
  let at = null;
  const point = (index) => {
    at = index;
    for (const move of cursors) move(index === null ? null : steps[index]);
    tip.hidden = index === null;
    if (index === null) return;
    const of = (name) => series.get(name)[index];
    const said = (name) => digits(of(name)) + (band(name, index) ? ` [${band(name, index).map(digits).join(", ")}]` : "");
    tip.replaceChildren(element("b", {}, `step ${steps[index]}`), ...names.filter((name) => of(name) !== null)
      .map((name) => element("span", {}, swatch(name), `${name.replaceAll("_", " ")} ${said(name)}`)));
    tip.style.left = tip.style.right = "";
    tip.style[x(steps[index]) > PLOT.width / 2 ? "right" : "left"] = "0";
    tip.style.top = `${drawing.getBoundingClientRect().bottom - figure.getBoundingClientRect().top + 2}px`;
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const step = ((event.clientX - box.left) / box.width * PLOT.width - PLOT.left) / (PLOT.width - PLOT.left - PLOT.right) * (last - first + 1) + first - 0.5;
    const nearest = steps.reduce((best, one, i) => (Math.abs(one - step) < Math.abs(steps[best] - step) ? i : best), 0);
    if (nearest !== at) point(nearest);
  });
  drawing.addEventListener("pointerleave", () => point(null));
  drawing.addEventListener("blur", () => point(null));
  drawing.addEventListener("keydown", (event) => {
    const end = steps.length - 1, from = at ?? end;
    const to = { ArrowLeft: Math.max(0, from - 1), ArrowRight: Math.min(end, from + 1), Home: 0, End: end }[event.key];
    if (to === undefined) return;
    event.preventDefault();  // the window would scroll
    point(to);
  });
  return figure;
}

// The stages of the two roles, behind the curves.
function shade(lines, x, put) {
  let start = 0;
  for (let i = 1; i <= lines.length; i++) {
    if (i < lines.length && lines[i].role === lines[start].role) continue;
    const left = x(lines[start].step - 0.5), right = x(lines[i - 1].step + 0.5);
    put("rect", { x: left, y: PLOT.top, width: right - left, height: PLOT.height - PLOT.top - PLOT.bottom, class: `stage ${lines[start].role}` });
    start = i;
  }
}

// The main mode's held-out numbers by step: the cold adapters' at 0, the trained ones' at the last.
function measured({ lines, results, mode }) {
  const byStep = { 0: results.cold, ...results.during, [lines.at(-1).step]: results.final };
  return Object.entries(byStep).filter(([, modes]) => modes?.[mode])
    .map(([step, modes]) => ({ step: Number(step), ...modes[mode] }));
}

async function showCurves() {
  const packed = document.getElementById("numbers");
  if (!packed) return;
  const data = await unpack(packed.textContent);
  data.measured = measured(data);
  const place = document.getElementById("curves");
  for (const [name, about, specs] of CURVES) {
    const charts = specs.map((spec) => chart(spec, data)).filter(Boolean);
    if (!charts.length) continue;
    place.append(element("h3", {}, name), element("p", { class: "about" }, about), element("div", { class: "charts" }, ...charts));
  }
}
