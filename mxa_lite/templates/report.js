"use strict";
// Trees of rollouts as folds: question, design, execution, call. Text of models enters the page
// through textContent only.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 132, HEIGHT = 40, GAP = 14, PAD = 10, HEAD = 30, DRAWN = 80;
const ASKED = document.querySelector("[data-asked]");  // one question that nobody graded
const SHORT = 60, LONG = 110;  // characters of an answer, of a question, in a heading

function element(name, attributes = {}, ...children) {
  const drawn = ["svg", "g", "title", "rect", "text", "path"].includes(name);
  const made = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const tag = (text, style = "") => element("span", { class: "tag " + style }, String(text));
const number = (value) => (value === null ? "" : value.toFixed(2));
const cut = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);

function advantage(value) {
  const shown = Math.round(100 * value) / 100 || 0;  // and never -0
  const style = shown > 0 ? "plus" : shown < 0 ? "minus" : "";
  return tag("advantage " + (shown > 0 ? "+" : "") + number(shown), style);
}

// A fold whose content is made when it is first opened.
function fold(kind, summary, fill) {
  const made = element("details", { "data-kind": kind }, element("summary", {}, ...summary));
  made.fill = () => {
    if (!made.filled) fill((...children) => made.append(...children));
    made.filled = true;
  };
  made.firstChild.addEventListener("click", made.fill);
  return ASKED && kind !== "call" ? open(made) : made;
}

function open(made) {
  made.open = true;
  made.fill();
  return made;
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Lays boxes out: what a node was shown stands above it, members of one round side by side,
// children inside the node that visited them. What is shown was visited before, so it comes first.
function layout(box) {
  if (!box.children.length) return Object.assign(box, { w: WIDTH, h: HEIGHT });
  const level = new Map();
  const rows = [];
  for (const child of box.children) {
    const above = child.parents.filter((path) => level.has(path)).map((path) => level.get(path));
    level.set(child.path, 1 + Math.max(-1, ...above));
    (rows[level.get(child.path)] ??= []).push(layout(child));
  }
  let y = box.path === null ? 0 : HEAD;
  for (const row of rows) {
    y += GAP;
    let x = PAD;
    for (const child of row) {
      Object.assign(child, { x, y });
      x += child.w + GAP;
    }
    row.w = x - GAP + PAD;
    y += Math.max(...row.map((child) => child.h));
  }
  const w = Math.max(...rows.map((row) => row.w));
  for (const row of rows) {
    for (const child of row) child.x += (w - row.w) / 2;
  }
  return Object.assign(box, { w, h: y + PAD });
}

function graph(nodes, text, choose) {
  const root = { path: null, children: [], parents: [] };
  const known = new Map();
  for (const node of nodes.slice(0, DRAWN)) {
    const made = { ...node, parents: node.parents.map(text), path: text(node.path), children: [] };
    if (!known.has(made.path)) known.set(made.path, made);
  }
  const order = (a, b) => a.path.localeCompare(b.path, "en", { numeric: true });
  for (const box of [...known.values()].sort(order)) {
    const above = known.get(box.path.slice(0, Math.max(0, box.path.lastIndexOf("."))));
    (above ?? root).children.push(box);
  }
  layout(root);
  const drawing = element("svg", { viewBox: `0 0 ${root.w} ${root.h}`, role: "group", "aria-label": "workflow" });
  Object.assign(drawing.style, { width: "100%", maxWidth: `${root.w}px`, minWidth: `${0.7 * root.w}px` });
  const draw = (box, x, y) => {
    Object.assign(box, { x, y });
    const style = box.error ? "failed" : box.children.length ? "group" : "";
    const group = element("g", { tabindex: 0, role: "button" });
    group.append(
      element("title", {}, `${text(box.name)} (${text(box.kind)})\n${text(box.error ?? box.output)}`),
      element("rect", { x, y, width: box.w, height: box.h, rx: 5, class: style }),
      element("text", { x: x + 8, y: y + 16 }, cut(text(box.name), 17)),
      element("text", { x: x + 8, y: y + 30, class: "sub" }, cut(`${text(box.kind)} ${box.path}`, 22)),
    );
    group.addEventListener("click", () => choose(box.path));
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();  // else the same Enter closes the call that now has the focus
      choose(box.path);
    });
    drawing.append(group);
    for (const child of box.children) draw(child, x + child.x, y + child.y);
  };
  for (const box of root.children) draw(box, box.x, box.y);
  for (const to of known.values()) {
    for (const from of new Set(to.parents.map((path) => known.get(path)))) {
      if (!from || from.y + from.h > to.y) continue;
      // From below to above; along the right side when another box may lie between.
      const aside = to.y - from.y - from.h >= HEIGHT + 2 * GAP;
      const [x1, y1] = aside ? [from.x + from.w, from.y + from.h / 2] : [from.x + from.w / 2, from.y + from.h];
      const [x2, y2] = aside ? [to.x + to.w, to.y + to.h / 2] : [to.x + to.w / 2, to.y];
      const middle = (y1 + y2) / 2;
      const bend = aside ? `${x1 + 12},${y1} ${x2 + 12},${y2}` : `${x1},${middle} ${x2},${middle}`;
      const head = aside ? `M${x2 + 6},${y2 - 4} l-6,4 l6,4` : `M${x2 - 4},${y2 - 6} l4,6 l4,-6`;
      drawing.append(element("path", { d: `M${x1},${y1} C${bend} ${x2},${y2} ${head}` }));
    }
  }
  return element("div", { class: "graph" }, drawing);
}

// Python source as [class, text]: comments, strings, keywords, numbers, names that are called. The
// texts together are the source.
const PYTHON = /(?<c>#[^\n]*)|(?<s>"""[^]*?"""|'''[^]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?<k>\b(?:and|as|assert|break|class|continue|def|del|elif|else|except|finally|for|from|if|import|in|is|lambda|not|or|pass|raise|return|try|while|with|yield|None|True|False)\b)|(?<m>\b\d[\w.]*)|(?<n>\b[A-Za-z_]\w*(?=\())|(?<o>[-+*\/%=<>!&|^~]+)/g;

function highlight(source) {
  const tokens = [];
  let end = 0;
  for (const match of source.matchAll(PYTHON)) {
    if (match.index > end) tokens.push(["", source.slice(end, match.index)]);
    tokens.push([Object.keys(match.groups).find((name) => match.groups[name] !== undefined), match[0]]);
    end = match.index + match[0].length;
  }
  return end < source.length ? [...tokens, ["", source.slice(end)]] : tokens;
}

// What draws the parts of some packed trees. rewarded: whether anything was learned from them.
function viewer(data, rewarded = !ASKED) {
  const graded = (...tags) => (rewarded ? tags : []);
  const text = (value) => String(value?.text === undefined ? value ?? "" : data.texts[value.text]);
  const said = (who, content) => [element("div", { class: "who" }, who), element("pre", {}, content)];

  const script = (source) => element("pre", { class: "script" },
    ...highlight(source).map(([style, part]) => element("span", { class: style }, part)));

  function call(made, label) {
    const notes = [made.truncated && "truncated", made.prompt_cut && "prompt cut"].filter(Boolean);
    const tokens = tag(`${made.prompt_ids} tokens in, ${made.completion_ids} out`);
    const tags = [tokens, ...graded(advantage(made.advantage)), ...notes.map((note) => tag(note, "bad"))];
    return fold("call", [label, ...tags], (add) => {
      for (const { role, content } of made.messages) add(...said(role, text(content)));
      add(...said("reply", text(made.reply)));
    });
  }

  function execution(made, index) {
    const right = made.correct >= 1;
    const answer = made.answer === null ? "no answer" : "answer " + cut(text(made.answer), SHORT);
    const summary = [`execution ${index + 1}: ${answer}`, tag(made.outcome, made.outcome === "ok" ? "" : "bad"),
      ...graded(tag(right ? "correct" : "wrong", right ? "good" : "bad"),
        tag("reward " + number(made.reward)), tag("format " + number(made.format)))];
    return fold("execution", summary, (add) => {
      const calls = made.calls.map((c, i) => call(c, `call ${i + 1}: ${text(c.agent)} ${text(c.path)}`));
      const choose = (path) => {
        const found = calls.filter((_, i) => (text(made.calls[i].path) + ".").startsWith(path + "."));
        found.forEach(open);
        found[0]?.querySelector("summary").focus();
      };
      if (made.nodes.length) add(graph(made.nodes, text, choose));
      for (const node of made.nodes.filter((one) => one.error)) {
        add(...said(`error of ${text(node.name)} ${text(node.path)}`, text(node.error)));
      }
      if (made.error !== null) add(...said("error", text(made.error)));
      add(...calls);
      if (text(made.answer).length > SHORT) add(...said("answer", text(made.answer)));
      if (made.stdout) add(...said("printed", text(made.stdout)));
      if (made.stderr) add(...said("standard error", text(made.stderr)));
    });
  }

  function design(made, index) {
    const alone = made.pattern === "single_agent";
    const summary = [alone ? "one agent alone" : `design ${index + 1}`, alone ? null : tag(made.pattern),
      ...graded(tag("reward " + number(made.reward)), advantage(made.call.advantage))];
    if (made.outcome) summary.push(tag(made.outcome, "bad"));
    return fold("design", summary, (add) => {
      if (made.error !== null) add(...said("error", text(made.error)));
      if (made.script !== null) add(script(text(made.script)));
      if (made.call.messages.length) add(call(made.call, "the designer's call"));
      add(...made.executions.map(execution));
    });
  }

  return { text, said, script, call, execution, design };
}

function browse(data) {
  const { text, said, design } = viewer(data);
  if (ASKED) return data.trees[0].designs.map(design);
  return data.trees.map((tree) => {
    const mean = tree.designs.reduce((sum, d) => sum + d.reward, 0) / Math.max(1, tree.designs.length);
    const question = text(tree.question.text);
    return fold("question", [cut(question, LONG), tag("mean reward " + number(mean))], (add) => {
      if (question.length > LONG) add(...said("question", question));
      if (tree.question.gold !== null) add(...said("right answer", text(tree.question.gold)));
      add(...tree.designs.map(design));
    });
  });
}
