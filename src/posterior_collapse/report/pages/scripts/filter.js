// Buttons that show one kind of thing within their section: cards of units, rows of runs.
for (const group of document.querySelectorAll(".pc-filter")) {
  group.hidden = false;
  const buttons = [...group.querySelectorAll("button")];
  const shown = group.closest(group.dataset.within ?? "section");
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
