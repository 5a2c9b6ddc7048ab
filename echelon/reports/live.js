"use strict";
const SECONDS = 2;
const shown = {};

function show(parts) {
  for (const [id, html] of Object.entries(parts)) {
    // What has not changed keeps its selection, focus and scroll position.
    if (shown[id] === html) continue;
    shown[id] = html;
    document.getElementById(id).innerHTML = html;
  }
}

async function refresh() {
  try {
    const answer = await fetch("state", { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
  } catch {
    show({ state: "<strong>The server of this page has ended</strong>; what follows is its last state." });
  }
  setTimeout(refresh, 1000 * SECONDS);
}

refresh();
