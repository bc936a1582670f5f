"use strict";

// Tables whose columns sort: the header of each becomes a button.
for (const table of document.querySelectorAll("table.pc-sortable")) {
  const headers = [...table.querySelectorAll("thead th")];
  const value = (row, column) => {
    const words = row.cells[column].textContent.trim().replace("≥ ", "").replaceAll(",", "");
    const number = parseFloat(words.split("/")[0]);
    return Number.isNaN(number) ? words : number;
  };
  const order = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? 1 : -1;
    return a < b ? -1 : a > b ? 1 : 0;
  };
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") !== "descending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (down ? -1 : 1) * order(value(a, column), value(b, column)));
      table.tBodies[0].append(...rows);
    });
  });
}

// Buttons that show one kind of thing within their section: cards of units, rows of runs.
for (const group of document.querySelectorAll(".pc-filter")) {
  group.hidden = false;
  const buttons = [...group.querySelectorAll("button")];
  const shown = group.closest("section");
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      const kind = button.dataset.show;
      for (const one of shown.querySelectorAll("[data-kind]")) {
        one.hidden = kind !== "" && one.dataset.kind !== kind;
      }
    });
  }
}

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

// A run that is gone to is shown, even if a filter hid it, and reads aloud from its card on.
const goTo = () => {
  const card = document.getElementById(location.hash.slice(1));
  if (!card?.classList.contains("pc-card")) return;
  if (card.hidden) document.querySelector('.pc-filter [data-show=""]').click();
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "center" });
};
window.addEventListener("hashchange", goTo);
goTo();
