// What happens when the page opens, and while a run that is served goes on.
async function show(packed) {
  const found = browse(await unpack(packed.textContent));
  document.getElementById("browser").replaceChildren(...found);
  for (const kind of found.length === 1 ? ["question", "design", "execution"] : []) {
    const first = document.querySelector(`#browser details[data-kind=${kind}]`);  // to its first graph
    if (first) open(first);
  }
}

function start() {
  const chooser = document.getElementById("step");
  const packed = document.querySelectorAll("script.rollout");
  if (chooser) {
    chooser.selectedIndex = packed.length - 1;
    chooser.addEventListener("change", () => show(packed[chooser.selectedIndex]));
    show(packed[chooser.selectedIndex]);
  }
  showWhy();
  showCurves();
  showTranscripts();
  if (!document.body.dataset.live) return;
  const form = document.querySelector("form[method=post]");
  form.addEventListener("submit", () => {
    form.querySelector("button").disabled = true;
    form.querySelector("button").textContent = "Designing and running; the first time loads the model …";
  });
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  setInterval(async () => {
    const answer = await fetch("version").catch(() => null);
    const now = answer?.ok ? await answer.text() : null;
    if (now === null || now === document.body.dataset.version) return;
    const busy = form.elements.question.value || document.querySelector("details[open], form[data-used]") ||
      chooser?.selectedIndex < packed.length - 1;
    if (busy) document.getElementById("news").hidden = false;
    else location.reload();
  }, 5000);
}
start();
