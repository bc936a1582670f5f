// The meaning of a word opens beside it; without this script, in the middle of the screen.
for (const pop of document.querySelectorAll(".pc-pop")) {
  pop.addEventListener("beforetoggle", (event) => {
    const from = document.activeElement?.closest(".pc-term");
    if (event.newState !== "open" || !from) return;
    const box = from.getBoundingClientRect();
    const width = Math.min(320, document.documentElement.clientWidth - 16);
    const left = Math.min(box.left, document.documentElement.clientWidth - width - 8);
    pop.style.setProperty("--left", `${Math.max(8, left)}px`);
    pop.style.setProperty("--top", `${box.bottom + 6}px`);
    pop.classList.add("pc-beside");
  });
}
