for (const box of document.querySelectorAll(".copyable")) {
  const button = box.querySelector("button");
  button.hidden = false;
  button.addEventListener("click", () => {
    const text = box.querySelector(".copied-text");
    getSelection().selectAllChildren(text);
    // works for files too, where the clipboard interface may be refused
    document.execCommand("copy");
    getSelection().removeAllRanges();
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// Headings become buttons that sort by their column; without scripts the table stays as it is.
for (const table of document.querySelectorAll(".sortable table")) {
  const body = table.tBodies[0];
  const number = (text) => parseFloat(text.replaceAll("\u2212", "-").replaceAll(",", ""));
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = heading.classList.contains("numeric");
      // numbers from the largest on, names from A; a second click turns it round
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const order = heading.getAttribute("aria-sort") === first ? second : first;
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].textContent.trim();
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      const rows = [...body.rows].sort((one, two) => {
        if (!numeric) return sign * value(one).localeCompare(value(two));
        const [a, b] = [number(value(one)), number(value(two))];
        if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b); // what has no number comes last
        return sign * (a - b);
      });
      body.append(...rows);
    });
  });
}
