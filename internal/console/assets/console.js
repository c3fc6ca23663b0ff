// What pages do beside being read: keep what is live up to date, and let "/" find the search.
"use strict";

const live = document.getElementById("live");
const state = document.getElementById("live-state");
let source = null;

function say(word) {
  state.hidden = false;
  state.textContent = word;
  state.dataset.word = word;
}

// put shows what came, and keeps what the reader has opened and where they are.
function put(html) {
  const opened = new Set([...live.querySelectorAll("details[id][open]")].map((d) => d.id));
  const focus = live.contains(document.activeElement) ? document.activeElement : null;
  if (focus && focus.matches("input, select, textarea")) return; // not while they write
  const again = focus && focus.getAttribute("href");
  const scrolled = [...live.querySelectorAll(".wide")].map((w) => w.scrollLeft);
  live.innerHTML = html; // made by the server's templates, which escape what is not theirs
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  live.querySelectorAll(".wide").forEach((w, i) => { w.scrollLeft = scrolled[i] || 0; });
  if (again) [...live.querySelectorAll("a[href]")].find((a) => a.getAttribute("href") === again)?.focus({ preventScroll: true });
}

function follow() {
  source = new EventSource(location.href);
  source.addEventListener("live", (event) => { say("live"); put(event.data); });
  source.addEventListener("error", () => say("not up to date"));
}

if (live && state) {
  follow();
  document.addEventListener("visibilitychange", () => { // nobody is asked for what nobody sees
    source.close();
    if (!document.hidden) follow();
  });
}

document.addEventListener("keydown", (event) => {
  const search = document.querySelector("[data-search]");
  if (event.key === "/" && search && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.matches("input, textarea, select")) {
    event.preventDefault();
    search.focus();
  }
});
