"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// what the curves are worth under the pointer
for (const chart of all(".chart")) {
  const series = chart.dataset.v.split(";").map((s) => s.split(" "));
  const drawing = chart.querySelector("svg"), hand = chart.querySelector(".hand"), said = all("output", chart);
  const left = Number(drawing.dataset.left), width = Number(drawing.dataset.width);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect(), scale = drawing.viewBox.baseVal.width / box.width;
    const share = ((event.clientX - box.left) * scale - left) / width;
    const i = Math.round(100 * Math.min(Math.max(share, 0), 1));
    hand.setAttribute("d", `M${left + (width * i) / 100} 10v240`);
    said[0].textContent = (i / 100).toFixed(2);
    series.forEach((values, k) => { said[k + 1].textContent = values[i] || "–"; });
    chart.classList.add("read");
  });
}

// the classes in the order of a column
for (const table of all("table")) {
  if (!table.closest("#classes")) continue;
  table.classList.add("classes");
  const heads = all("thead th", table), body = table.tBodies[0];
  const value = (row, i) => { const text = row.cells[i].textContent; return text === "" || isNaN(text) ? text : Number(text); };
  const order = (i) => {
    const falling = heads[i].getAttribute("aria-sort") !== "descending" && i > 0;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[i].setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rank = (v) => (typeof v === "number" ? v : -1);
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a, i), y = value(b, i);
      return i === 0 ? String(x).localeCompare(y) : (rank(x) - rank(y)) * (falling ? -1 : 1);
    });
    body.append(...rows);
  };
  heads.forEach((head, i) => {
    head.tabIndex = 0;
    head.addEventListener("click", () => order(i));
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") order(i); });
  });
}
