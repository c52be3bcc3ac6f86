"use strict";

const EYES = ["right", "left"];
const element = (id) => document.getElementById(id);
const chosen = {};
const previews = {};
const TEXTS = { refer: "Refer", do_not_refer: "Do not refer" };
let token = "";
let about = null; // limits and names; loaded before the first choice
let ready = load();
let request = 0; // number of the present request; answers to older ones are dropped

async function asked(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch {
    throw new Error("The retinaflow server does not answer. Is it still running?");
  }
  const found = await response.json();
  if (response.ok) return found;
  if (response.status === 401) {
    element("sign-in").hidden = false;
    element("token").focus();
  }
  throw new Error(found.error.message);
}

async function load() {
  const limits = await asked("/v1/model");
  element("sign-in").hidden = true;
  const rule = limits.card.data_set ? `, decision rule of ${limits.card.data_set}` : "";
  element("about").textContent = `Graded by ${limits.model}${rule}. Referred: ${limits.card.referable_grades.join(", ")}, from a risk of `
    + `${limits.card.risk_threshold.toFixed(3)}, fixed on validation for ${limits.card.operating_point}.`;
  element("limits").textContent = `${limits.types.join(", ")}, up to ${size(limits.most_bytes)} each`;
  element("warning").textContent = limits.card.warning;
  element("warning").hidden = !limits.card.warning;
  for (const eye of EYES) element(eye).accept = limits.types.join(",");
  return limits;
}

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
  // DICOM files may have no extension, or digits after a point.
  const extension = /[.][a-z][a-z0-9]{1,4}$/.test(name);
  if (extension && !about.types.some((type) => name.endsWith(type))) return `expected a file that ends in ${about.types.join(", ")}`;
  if (file.size > about.most_bytes) return `${size(file.size)}, expected ${size(about.most_bytes)} at most`;
  return "";
}

function clearAnswers() {
  request += 1;
  showProblems([]);
  element("results").replaceChildren();
  element("verdict").hidden = true;
  element("print").disabled = true;
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

function showVerdict(patient) {
  const place = element("verdict");
  const [first, ...others] = patient.lines.map((text) => text[0].toUpperCase() + text.slice(1));
  place.className = `${patient.verdict} ${patient.complete ? "complete" : "incomplete"}`;
  element("decision").textContent = first.replace(/[.]$/, "");
  place.querySelector(".risk").textContent = patient.risk === null ? "" : others.shift();
  place.querySelector("ul").replaceChildren(...others.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
  // A printed page must show its images and its time.
  const files = EYES.filter((eye) => chosen[eye]).map((eye) => `${eye} eye ${chosen[eye].name}`);
  element("when").textContent = `${files.join(", ")}; graded ${new Date().toLocaleString("sv").slice(0, 16)}`;
  place.hidden = false;
  element("print").disabled = false;
  place.focus();
}

function rowOf(name, share) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  row.append(head);
  const meter = document.createElement("meter");
  meter.value = share;
  meter.setAttribute("aria-label", `probability of ${name}`);
  row.insertCell().append(meter);
  row.insertCell().textContent = share.toFixed(3);
  return row;
}

function showQuality(find, answer) {
  const poor = Boolean(answer.low_quality);
  find(".quality").classList.toggle("poor", poor);
  find(".quality p").textContent = `${poor ? "Poor quality" : "Quality"} ${answer.quality.toFixed(2)} of 1`
    + (poor ? ": lower than nearly all training images" : "");
  find(".advice").textContent = poor ? "Take another image; if it stays poor, refer." : "";
}

function result(answer) {
  const article = element("result").content.cloneNode(true).firstElementChild;
  const find = (selector) => article.querySelector(selector);
  article.dataset.eye = answer.eye;
  article.classList.add(answer.decision);
  find("h3").textContent = `${answer.eye === "right" ? "Right" : "Left"} eye`;
  find(".decision").textContent =
    `${TEXTS[answer.decision]}: risk ${answer.risk.toFixed(3)}, referred from ${answer.risk_threshold.toFixed(3)}`;
  const most = about.grade_names.length - 1;
  find(".detail").textContent = `Predicted grade: ${answer.predicted_grade_name} `
    + `(severity ${answer.severity.toFixed(2)} of ${most}, uncertainty ${answer.uncertainty.toFixed(2)})`;
  find("tbody").append(...about.grade_names.map((name) => rowOf(name, answer[`probability_${name}`])));
  if (answer.eye_average_grade_name !== null) {
    find(".both").textContent = `Grade with the fellow eye: ${answer.eye_average_grade_name}`;
  } else if (answer.answered_by && answer.answered_by !== about.model) {
    find(".both").textContent = `The fellow eye is missing: answered by ${answer.answered_by}`;
  }
  showQuality(find, answer);
  for (const name of ["input", "heat_map"]) {
    const picture = find(`.${name}`);
    picture.closest("figure").hidden = !answer[name];
    if (answer[name]) picture.src = answer[name];
    picture.alt = `${answer.eye} eye, ${name === "input" ? "image as the network sees it" : "heat map"}`;
  }
  return article;
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
    const found = await asked("/v1/patient", { method: "POST", body: sent });
    if (number !== request) return;
    element("results").replaceChildren(...found.images.map(result));
    report(found.images.length ? "Graded." : "Nothing was graded.");
    showVerdict(found.patient);
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

element("print").addEventListener("click", () => window.print());
element("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = element("token").value.trim();
  showProblems([]);
  ready = load();
  ready.catch((error) => showProblems([error.message]));
});
ready.catch((error) => showProblems([error.message]));
