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
