// Sorts a table by the column whose heading is pressed; a second press turns the order. What has no value stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const keys = new Map([...table.tBodies[0].rows].map(row => {
        const text = row.cells[column].textContent.trim(), number = parseFloat(text);
        return [row, text === "–" ? null : Number.isNaN(number) ? text.toLowerCase() : number];
      }));
      const compare = (a, b) => a === null ? (b === null ? 0 : 1) : b === null ? -1
        : (typeof a !== typeof b ? (typeof a === "number" ? -1 : 1) : a > b ? 1 : a < b ? -1 : 0) * sign;
      [...keys.keys()].sort((a, b) => compare(keys.get(a), keys.get(b))).forEach(row => table.tBodies[0].append(row));
      headings.forEach(other => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    });
  });
}
// What scrolls sideways can be reached by keyboard.
for (const box of document.querySelectorAll(".scroll, .box")) if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
// The contents show where the reader is.
const links = new Map([...document.querySelectorAll(".contents a")].map(link => [link.hash.slice(1), link]));
const marks = [...document.querySelectorAll("main [id]")].filter(mark => links.has(mark.id));
const follow = () => {
  const passed = marks.filter(mark => mark.getBoundingClientRect().top < innerHeight / 3), now = passed[passed.length - 1];
  links.forEach((link, id) => now && id === now.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
};
addEventListener("scroll", follow, { passive: true });
follow();
