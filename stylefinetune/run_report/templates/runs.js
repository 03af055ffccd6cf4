"use strict";
// Shows the mistakes of the chosen classes; without a choice, those with the highest probability.
function showMistakes(section) {
  const [truth, predicted] = ["true", "predicted"].map((name) => section.querySelector(`[data-filter=${name}]`).value);
  let shown = 0;
  for (const item of section.querySelectorAll(".pictures li")) {
    const isChosen = (!truth || item.dataset.true === truth) && (!predicted || item.dataset.predicted === predicted);
    item.hidden = !(isChosen && (truth || predicted || "worst" in item.dataset));
    shown += !item.hidden;
  }
  const what = truth || predicted ? "of these classes" : "with the highest probabilities";
  section.querySelector(".count").textContent = `${shown} mistakes ${what}`;
}

for (const filter of document.querySelectorAll(".filter")) {
  const section = filter.closest("section");
  filter.addEventListener("change", () => showMistakes(section));
  filter.addEventListener("submit", (event) => event.preventDefault());
  showMistakes(section);
}

// A click on a cell of a confusion matrix chooses its classes.
function chooseCell(section, datum) {
  for (const name of ["true", "predicted"]) {
    const select = section.querySelector(`[data-filter=${name}]`);
    if (select && [...select.options].some((option) => option.value === datum[name])) select.value = datum[name];
    else return;
  }
  showMistakes(section);
}

for (const data of document.querySelectorAll("[data-chart]")) {
  const place = document.getElementById(data.dataset.chart);
  vegaEmbed(place, JSON.parse(data.textContent), { actions: false, renderer: "svg" }).then(({ view }) => {
    if (data.dataset.chart.startsWith("confusion"))
      view.addEventListener("click", (_, item) => item && item.datum && chooseCell(place.closest("section"), item.datum));
  });
}
