"use strict";
const browse = document.getElementById("browse");
const data = JSON.parse(document.getElementById("counts").textContent);
const MAX_EXAMPLES = 25;
const filters = [...browse.querySelectorAll("select")];
const shows = (count) => count.toLocaleString("en");

// Returns the chosen number of each filter; 0 is any.
function readChoices() {
  const choices = { class: 0, split: 0, outcome: 0, host: 0 };
  for (const select of filters) choices[select.dataset.filter] = Number(select.value);
  return choices;
}

// Adds up the rows of the chosen cells by group of outcomes.
function countRows(choices) {
  const counts = Object.fromEntries(data.groups.map((group) => [group.key, 0]));
  for (const [label, split, outcome, host, rows] of data.cells) {
    if (label !== choices.class) continue;
    if (choices.split && split !== choices.split) continue;
    if (choices.outcome && outcome !== choices.outcome) continue;
    if (choices.host && host !== choices.host) continue;
    counts[data.outcome_groups[outcome - 1]] += rows;
  }
  return counts;
}

// Shows those of the elements that have the chosen values, up to a limit, and returns their number.
function showChosen(elements, choices, limit) {
  let shown = 0;
  for (const element of elements) {
    const isChosen = Object.entries(choices).every(
      ([name, choice]) => !choice || element.dataset[name].split(" ").includes(String(choice)),
    );
    element.hidden = !isChosen || shown >= limit;
    shown += !element.hidden;
  }
  return shown;
}

function drawBar(counts, total, text) {
  let left = 0;
  browse.querySelector(".bar").setAttribute("aria-label", text);
  for (const rect of browse.querySelectorAll(".bar rect")) {
    const width = total ? (100 * counts[rect.dataset.group]) / total : 0;
    rect.setAttribute("x", `${left}%`);
    rect.setAttribute("width", `${width}%`);
    left += width;
  }
}

function update() {
  const choices = readChoices();
  const counts = countRows(choices);
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const parts = data.groups
    .filter((group) => counts[group.key])
    .map((group) => `${shows(counts[group.key])} ${group.name} (${((100 * counts[group.key]) / total).toFixed(1)} %)`);
  const text = `${shows(total)} of ${shows(data.total)} ${data.noun}${parts.length ? ": " : ""}${parts.join(", ")}.`;
  const pictures = showChosen(browse.querySelectorAll(".pictures li"), choices, Infinity);
  const examples = showChosen(browse.querySelectorAll(".examples tbody tr"), choices, MAX_EXAMPLES);
  drawBar(counts, total, text);
  browse.querySelector(".count").textContent =
    `${text} Shown below: pictures: ${pictures}, ${data.noun} without a picture: ${examples}.`;
}

browse.querySelector(".filter").hidden = false;
browse.addEventListener("change", update);
browse.addEventListener("submit", (event) => event.preventDefault());
browse.querySelector(".filter").addEventListener("reset", () => setTimeout(update));
update();

// A click on a picture shows it larger, in a dialog; the browser closes it on Escape and returns the focus.
const dialog = document.querySelector("dialog");

function enlarge(button) {
  const facts = button.dataset;
  const image = button.querySelector("img").cloneNode();
  dialog.querySelector(".picture").replaceChildren(image);
  for (const field of dialog.querySelectorAll("[data-field]")) field.textContent = facts[field.dataset.field];
  const source = dialog.querySelector("a");
  source.textContent = facts.source;
  if ("link" in facts) source.href = facts.link;
  else source.removeAttribute("href");
  dialog.showModal();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest(".enlarge");
  if (button) enlarge(button);
  else if (event.target === dialog || event.target.closest(".close")) dialog.close();
});
