"use strict";

const EYES = ["right", "left"];
const element = (id) => document.getElementById(id);
const chosen = {};
const previews = {};
const ready = fetch("/about").then((response) => response.json());
let about = null; // limits and names; loaded before the first choice
let request = 0; // number of the present request; answers to older ones are dropped

function report(text) { element("status").textContent = text; }

function showProblems(texts) {
  element("problems").firstElementChild.replaceChildren(...texts.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function problemOf(file) {
  const name = file.name.toLowerCase();
  if (!about.types.some((type) => name.endsWith(type))) return `expected a file that ends in ${about.types.join(", ")}`;
  if (file.size > about.most_bytes) return `${size(file.size)}, expected ${size(about.most_bytes)} at most`;
  return "";
}

function clearAnswers() {
  request += 1;
  showProblems([]);
  element("results").replaceChildren();
  report("");
  element("grade").disabled = !EYES.some((eye) => chosen[eye]);
}

async function choose(eye, files) {
  element(eye).value = ""; // else the same file cannot be chosen again
  clearAnswers();
  about = await ready;
  if (files.length !== 1) return showProblems([`${eye} eye: ${files.length} files, expected one image`]);
  const file = files[0];
  const problem = problemOf(file);
  if (problem) return showProblems([`${eye} eye: ${file.name}: ${problem}`]);
  chosen[eye] = file;
  show(eye);
  clearAnswers();
}

function show(eye) {
  const place = element(`drop-${eye}`);
  const picture = place.querySelector("img");
  const file = chosen[eye];
  if (previews[eye]) URL.revokeObjectURL(previews[eye]);
  previews[eye] = file ? URL.createObjectURL(file) : "";
  picture.hidden = !file;
  // Browsers cannot show every type that can be graded.
  picture.onerror = () => { picture.hidden = true; };
  if (file) picture.src = previews[eye]; else picture.removeAttribute("src");
  picture.alt = file ? `${eye} eye, as chosen` : "";
  place.querySelector(".hint").textContent = file ? `${file.name}, ${size(file.size)}` : "drop a fundus image here";
}

function clear() {
  for (const eye of EYES) {
    delete chosen[eye];
    show(eye);
  }
  clearAnswers();
}

function graded(answer, prefix) {
  const severity = answer[`${prefix === "predicted_" ? "" : prefix}severity`].toFixed(2);
  return `grade ${answer[`${prefix}grade_name`]}, severity ${severity} of ${about.grade_names.length - 1}`;
}

function decided(answer) {
  const decision = answer.decision === "refer" ? "Refer" : "Do not refer";
  return `${decision}, risk ${answer.risk.toFixed(3)}, referred from ${answer.risk_threshold.toFixed(3)}`;
}

function result(answer) {
  const article = element("result").content.cloneNode(true).firstElementChild;
  const find = (selector) => article.querySelector(selector);
  article.dataset.eye = answer.eye;
  find("h2").textContent = `${answer.eye === "right" ? "Right" : "Left"} eye`;
  find(".grade").textContent = decided(answer);
  find(".grade").classList.toggle("refer", Boolean(answer.referable));
  find(".detail").textContent = `Most likely ${graded(answer, "predicted_")}, uncertainty ${answer.uncertainty.toFixed(2)}`;
  if (answer.eye_average_grade_name !== null) {
    find(".both").textContent = `With the fellow eye: ${graded(answer, "eye_average_")}`;
  }
  if (answer.low_quality) {
    find(".quality").textContent = `Low quality (${answer.quality.toFixed(2)}): lower than nearly all training images`;
  }
  for (const name of about.grade_names) {
    const share = answer[`probability_${name}`];
    const row = find("tbody").insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    const meter = document.createElement("meter");
    meter.value = share;
    meter.setAttribute("aria-label", `probability of ${name}`);
    row.insertCell().append(meter);
    row.insertCell().textContent = share.toFixed(3);
  }
  for (const name of ["input", "heat_map"]) {
    find(`.${name}`).src = answer[name];
    find(`.${name}`).alt = `${answer.eye} eye, ${name === "input" ? "input of the network" : "Grad-CAM heat map"}`;
  }
  return article;
}

async function answer(sent) {
  let response;
  try {
    response = await fetch("/grade", { method: "POST", body: sent });
  } catch {
    throw new Error("The retinaflow server does not answer. Is it still running?");
  }
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

async function grade(event) {
  event.preventDefault();
  const sent = new FormData();
  for (const eye of EYES) if (chosen[eye]) sent.append(eye, chosen[eye]);
  clearAnswers();
  const number = request;
  element("grade").disabled = true;
  report("Grading ...");
  try {
    const found = await answer(sent);
    if (number !== request) return;
    element("results").replaceChildren(...found.images.map(result));
    showProblems(found.problems.map((problem) => `${problem.eye} eye: ${problem.problem}, ${problem.found}`));
    report(found.images.length ? "Graded." : "Nothing was graded.");
  } catch (error) {
    if (number !== request) return;
    report("");
    showProblems([error.message]);
  } finally {
    if (number === request) element("grade").disabled = !EYES.some((eye) => chosen[eye]);
  }
}

for (const eye of EYES) {
  const place = element(`drop-${eye}`);
  element(eye).addEventListener("change", () => choose(eye, [...element(eye).files]));
  place.addEventListener("dragover", () => place.classList.add("over"));
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    place.classList.remove("over");
    choose(eye, [...event.dataTransfer.files]);
  });
}
// The browser would open an image that is dropped elsewhere.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
element("form").addEventListener("submit", grade);
element("clear").addEventListener("click", (event) => { event.preventDefault(); clear(); });

ready.then((limits) => {
  element("about").textContent = `Graded by ${limits.model}.`;
  element("limits").textContent = `${limits.types.join(", ")}, up to ${size(limits.most_bytes)} each`;
  for (const eye of EYES) element(eye).accept = limits.types.join(",");
}, () => showProblems(["The retinaflow server does not answer. Start it and load this page again."]));
