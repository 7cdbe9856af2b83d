// Held-out questions: the design written cold and the one written after training, side by side.
const ROWS = 20;  // rows that are listed at once
const RESULTS = {
  "became right": (one) => one.flipped && one.now.right,
  "became wrong": (one) => one.flipped && !one.now.right,
  "right": (one) => one.now.right,
  "wrong": (one) => !one.now.right,
  "flipped": (one) => one.flipped,
  "pattern changed": (one) => one.before && one.before.pattern !== one.now.pattern,
};

// A design's executions one after the other; a script that never ran is one wrong attempt.
const attempts = (view, tree) => tree.designs.flatMap((design) => (design.executions.length ? design.executions : [null])
  .map((execution) => ({
    view, tree, design, execution, pattern: design.pattern,
    right: (execution?.correct ?? 0) >= 1, outcome: execution?.outcome ?? design.outcome,
  })));

function pairs(packs) {
  const [first, last] = [packs[0], packs.at(-1)];
  const before = new Map(packs.length > 1 ? first.trees.map((tree) => [tree.question.id, tree]) : []);
  const views = packs.map((data) => viewer(data, false)), text = views.at(-1).text;
  return last.trees.flatMap((tree) => {
    const earlier = before.get(tree.question.id), old = earlier ? attempts(views[0], earlier) : [];
    return attempts(views.at(-1), tree).map((now, i) => {
      const one = { id: `held-${text(tree.question.id)}-${i + 1}`, kind: tree.kind, question: text(tree.question.text), gold: tree.question.gold, now };
      one.before = old[i] ?? null;
      one.flipped = one.before !== null && one.before.right !== now.right;
      return one;
    });
  });
}

// All that a search looks into, made when it is first asked for.
function words(one) {
  const of = (attempt) => attempt && [
    attempt.view.text(attempt.design.script), attempt.view.text(attempt.execution?.answer),
    ...(attempt.execution?.calls ?? []).map((call) => attempt.view.text(call.reply)),
  ];
  one.words ??= [one.question, of(one.before), of(one.now)].flat().join("\n").toLowerCase();
  return one.words;
}

const verdict = (attempt) => tag(attempt.right ? "right" : "wrong", attempt.right ? "good" : "bad");

// One side: what was designed, what came of it, and what every agent said.
function side(name, attempt) {
  const made = element("div", { class: "side" }, element("h4", {}, name));
  if (!attempt) return made;
  const { view: { text, said, script, call }, design, execution } = attempt;
  const ok = attempt.outcome === "ok";
  const answer = execution?.answer == null ? "no answer" : "answer " + cut(text(execution.answer), SHORT);
  made.append(element("p", { class: "verdict" }, verdict(attempt), tag(attempt.pattern), ok ? null : tag(attempt.outcome, "bad"), " ", answer));
  if (design.error !== null) made.append(...said("error", text(design.error)));
  if (design.script !== null) made.append(script(text(design.script)));
  const replies = (execution?.calls ?? []).map((one, i) => {
    const [who, reply] = said(`reply ${i + 1}: ${text(one.agent)} ${text(one.path)}`, text(one.reply));
    reply.tabIndex = -1;
    reply.dataset.path = text(one.path);
    return [who, reply, call(one, "the whole call")];
  });
  if (execution?.nodes.length > 1) {
    made.append(graph(execution.nodes, text, (path) => {
      const own = replies.map(([, reply]) => reply).filter((reply) => (reply.dataset.path + ".").startsWith(path + "."));
      for (const [, reply] of replies) reply.classList.toggle("chosen", own.includes(reply));
      own[0]?.focus();
    }));
  }
  if (execution && execution.error !== null) made.append(...said("error", text(execution.error)));
  made.append(...replies.flat());
  if (execution?.stdout) made.append(...said("printed", text(execution.stdout)));
  if (design.call.messages.length) made.append(call(design.call, "the designer's call"));
  return made;
}

function pairRow(one, whens) {
  const { before, now } = one, patterns = [before?.pattern, now.pattern].filter(Boolean);
  const link = element("a", { href: "#" + encodeURIComponent(one.id), "aria-label": "link to this question" }, "#");
  const changed = before ? [verdict(before), "→", verdict(now)] : [verdict(now)];
  const outcome = now.outcome === "ok" ? "" : tag(now.outcome, "bad");
  const heading = [link, ...changed, tag([...new Set(patterns)].join(" → ")), outcome, one.kind && tag(one.kind), " ", cut(one.question, LONG)];
  const made = fold("pair", heading, (add) => {
    add(element("div", { class: "who" }, "question"), element("pre", {}, one.question));
    if (one.gold !== null) add(element("div", { class: "who" }, "right answer"), element("pre", {}, now.view.text(one.gold)));
    const sides = before ? [side("Cold", before), side("Trained", now)] : [side(whens.at(-1) === "final" ? "Trained" : "Cold", now)];
    add(element("div", { class: "sides" }, ...sides));
  });
  made.id = one.id;
  return made;
}

async function showTranscripts() {
  const packed = [...document.querySelectorAll("script.transcripts")];
  const form = document.getElementById("filters"), list = document.getElementById("pairs");
  if (!packed.length) return;
  const all = pairs(await Promise.all(packed.map((one) => unpack(one.textContent))));
  const whens = packed.map((one) => one.dataset.when);
  const values = {
    kind: (one) => [one.kind],
    pattern: (one) => [one.now.pattern, one.before?.pattern],
    outcome: (one) => [one.now.outcome, one.before?.outcome],
    result: (one) => Object.keys(RESULTS).filter((name) => RESULTS[name](one)),
  };
  for (const [key, of] of Object.entries(values)) {
    const counts = new Map();
    for (const one of all) for (const value of new Set(of(one).filter(Boolean))) counts.set(value, (counts.get(value) ?? 0) + 1);
    const names = key === "result" ? Object.keys(RESULTS).filter((name) => counts.has(name)) : [...counts.keys()].sort();
    form.elements[key].append(...names.map((name) => element("option", { value: name }, `${name.replaceAll("_", " ")} (${counts.get(name)})`)));
    form.elements[key].closest("label").hidden = !names.length;
  }

  let shown = ROWS;
  const matching = () => {
    const search = form.elements.search.value.trim().toLowerCase();
    return all.filter((one) => Object.entries(values).every(([key, of]) => !form.elements[key].value || of(one).includes(form.elements[key].value)) &&
      (!search || words(one).includes(search)));
  };
  const listed = (rows) => {
    const more = rows.length > shown ? element("button", { type: "button" }, `Show ${Math.min(ROWS, rows.length - shown)} more`) : null;
    more?.addEventListener("click", () => {
      const at = shown;
      shown += ROWS;
      listed(rows);
      list.children[at].querySelector("summary").focus();
    });
    list.replaceChildren(...rows.slice(0, shown).map((one) => pairRow(one, whens)), ...(more ? [more] : []));
    document.getElementById("count").textContent = `${rows.length} of ${all.length} attempts`;
  };
  const refresh = () => {
    shown = ROWS;
    form.toggleAttribute("data-used", [...new FormData(form).values()].some(Boolean));
    listed(matching());
  };
  form.addEventListener("input", refresh);
  form.addEventListener("reset", () => setTimeout(refresh));
  form.addEventListener("submit", (event) => event.preventDefault());
  refresh();

  const follow = () => {
    const id = decodeURIComponent(location.hash.slice(1)), index = all.findIndex((one) => one.id === id);
    if (index < 0) return;
    for (const field of form.elements) field.value = "";
    form.removeAttribute("data-used");
    shown = Math.max(ROWS, index + 1);
    listed(all);
    open(list.children[index]).scrollIntoView();
    list.children[index].querySelector("summary").focus({ preventScroll: true });
  };
  addEventListener("hashchange", follow);
  follow();
}
