"use strict";
const table = document.getElementById("results");
const heads = Array.from(table.tHead.rows[0].cells);

function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
}

function sort(column) {
  const ascending = heads[column].getAttribute("aria-sort") !== "ascending";
  const rows = Array.from(table.tBodies[0].rows);
  const value = (row) => row.cells[column].dataset.value;
  rows.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    // Missing values stay at the end in both directions.
    if (a === "" || b === "") return (a === "") - (b === "");
    return ascending ? compare(a, b) : compare(b, a);
  });
  table.tBodies[0].append(...rows);
  heads.forEach((head) => head.setAttribute("aria-sort", "none"));
  const direction = ascending ? "ascending" : "descending";
  heads[column].setAttribute("aria-sort", direction);
  const name = heads[column].querySelector("button").textContent;
  document.getElementById("sorted").textContent = `Sorted by ${name}, ${direction}.`;
}

heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
