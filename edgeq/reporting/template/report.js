"use strict";
(() => {
  const root = document.documentElement;
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const toggle = document.getElementById("theme");
  const name = () => { toggle.textContent = dark() ? "Light" : "Dark"; };
  toggle.hidden = false;
  toggle.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  name();

  const sortAndFilter = (table) => {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const headings = Array.from(table.tHead.rows[0].cells);
    const key = (row, column) => row.cells[column].dataset.key;
    const compare = (column, numeric, sign) => (first, second) => {
      const [a, b] = [key(first, column), key(second, column)];
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return sign * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
    };
    headings.forEach((heading, column) => {
      const button = heading.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const rising = heading.getAttribute("aria-sort") !== "ascending";
        headings.forEach((each) => each.querySelector("button") && each.setAttribute("aria-sort", "none"));
        heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
        rows.sort(compare(column, heading.dataset.numeric === "true", rising ? 1 : -1));
        body.append(...rows);
      });
    });

    const filters = document.getElementById("filters");
    const text = document.getElementById("filter-text");
    const choices = Array.from(filters.querySelectorAll("select"));
    const status = document.getElementById("filter-status");
    const apply = () => {
      const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row) => {
        const said = row.textContent.toLowerCase();
        const fits = words.every((word) => said.includes(word))
          && choices.every((choice) => !choice.value || row.dataset[choice.name] === choice.value);
        row.hidden = !fits;
        shown += fits;
      });
      status.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    };
    filters.hidden = false;
    filters.addEventListener("input", apply);
    filters.addEventListener("submit", (event) => event.preventDefault());
    apply();
  };
  const overview = document.getElementById("overview-table");
  if (overview) sortAndFilter(overview);

  const truth = document.getElementById("show-truth");
  if (truth) truth.addEventListener("change", () => document.body.classList.toggle("with-truth", truth.checked));

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach((each) => { each.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((each) => { each.open = false; }));
})();
