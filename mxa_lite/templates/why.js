// Why it learned: the designs by pattern, how large a share each has and how often it was right, and
// the gain in accuracy as the parts that patterns and their accuracies have in it.
const percent = (share) => `${Math.round(100 * share)} %`;
const signed = (gain) => `${gain < 0 ? "" : "+"}${(100 * gain).toFixed(1)}`;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// Designs as (kind and pattern) -> correct of each.
function cells(rows) {
  const by = new Map();
  for (const [kind, pattern, correct] of rows) {
    const key = JSON.stringify([kind, pattern]);
    by.set(key, [...(by.get(key) ?? []), correct]);
  }
  return by;
}

// The rise of the accuracy in two parts that add up to it. other: shares moved, each pattern of each
// kind at its mean accuracy before and after. same: accuracies rose, at the mean share. What was never
// written before, or never again, has one accuracy, and so no rise of its own.
function partsOfGain(before, after) {
  const sides = [before, after].map(cells), parts = { other: 0, same: 0 };
  for (const key of new Set(sides.flatMap((side) => [...side.keys()]))) {
    const tries = sides.map((side) => side.get(key) ?? []);
    const shares = [tries[0].length / before.length, tries[1].length / after.length];
    const known = tries.filter((own) => own.length).map(mean);
    parts.other += (shares[1] - shares[0]) * mean(known);
    parts.same += (known.at(-1) - known[0]) * mean(shares);
  }
  return parts;
}

// A table of some designs at each time, by pattern or what else `of` a design names them; what the last
// time has most of first, and LISTED at most.
const LISTED = 20;
function patternTable(times, of = ([, pattern]) => pattern) {
  const columns = Object.values(times).map((rows) => rows.map((row) => [of(row), row[2]]));
  const share = (rows, name) => rows.filter(([own]) => own === name).length / (rows.length || 1);
  const all = [...new Set(columns.flat().map(([name]) => name))].sort();
  const names = all.sort((a, b) => share(columns.at(-1), b) - share(columns.at(-1), a)).slice(0, LISTED);
  const kind = (name) => name.split(":")[0], colour = colours([...new Set(names.map(kind))]);
  const cell = (rows, name) => {
    const own = rows.filter(([one]) => one === name).map(([, correct]) => correct);
    if (!own.length) return element("td", {});
    const bar = element("span", { class: "share", style: `--w:${100 * own.length / rows.length}%` }, percent(own.length / rows.length));
    return element("td", {}, bar, " ", element("small", {}, `${mean(own).toFixed(2)} right`));
  };
  const head = ["pattern", ...Object.keys(times)].map((name) => element("th", {}, name));
  const body = names.map((name) => element("tr", {}, element("td", {}, element("i", { style: `background:${colour.get(kind(name))}` }), name),
    ...columns.map((rows) => cell(rows, name))));
  const table = element("table", { class: "why" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
  return element("div", { class: "wide" }, table);
}

async function showWhy() {
  const packed = document.getElementById("designs");
  if (!packed) return;
  const times = await unpack(packed.textContent), place = document.getElementById("patterns");
  const [cold, trained] = [times["held out, cold"], times["held out, trained"]];
  if (cold?.length && trained?.length) {
    const { other, same } = partsOfGain(cold, trained);
    place.append(element("p", { id: "gain" }, `Of the ${signed(other + same)} points ${signed(other)} come from writing other patterns, ` +
      `${signed(same)} from the same patterns being right more often.`));
  }
  place.append(patternTable(times));
  const kinds = [...new Set(Object.values(times).flat().map(([kind]) => kind))].sort().filter(Boolean);
  for (const kind of kinds) {
    const own = Object.fromEntries(Object.entries(times).map(([name, rows]) => [name, rows.filter((row) => row[0] === kind)]));
    place.append(fold("kind", [`${kind} questions`], (add) => add(patternTable(own))));
  }
  const told = ([, pattern, , says]) => (says ? `${pattern}: ${says}` : pattern);
  place.append(fold("told", [`Patterns with what their agents are told, the ${LISTED} most frequent`], (add) => add(patternTable(times, told))));
}
