// The curves of a comparison: all rows in one chart, with a band over seeds, and each row's patterns.
async function showComparison() {
  const rows = await unpack(document.getElementById("rows").textContent), byStep = new Map();
  rows.forEach((row, i) => {
    row.label = rows.findIndex((one) => one.name === row.name) < i ? `${row.name} (${i + 1})` : row.name;
    row.curve.forEach((point) => {
      const line = byStep.get(point.step) ?? { step: point.step, correct: {}, valid: {}, band: {} };
      line.correct[row.label] = point.correct;
      line.valid[row.label] = point.valid_scripts;
      if (row.seeds.length > 1) line.band[row.label] = [point.least, point.most];
      byStep.set(point.step, line);
    });
  });
  const all = { lines: [...byStep.values()].sort((a, b) => a.step - b.step) };
  const charts = all.lines.length ? [
    chart({ title: "Executions correct in training", of: (line) => line.correct, band: (line) => line.band, top: 1 }, all),
    chart({ title: "Scripts valid", of: (line) => line.valid, top: 1 }, all),
    ...rows.filter((row) => row.curve.length).map((row) => chart({ title: `Patterns: ${row.label}`, of: (line) => line.patterns, stack: "share" }, { lines: row.curve })),
  ] : [];
  document.getElementById("curves").append(...charts.filter(Boolean));
}
showComparison();
