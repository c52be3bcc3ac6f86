"use strict";

const EYES = ["right", "left"];
const part = (id) => document.getElementById(id);
const chosen = {};
const previews = {};
const ready = fetch("/about").then((response) => response.json());
let about = null; // what is waited for before anything is chosen
let asked = 0; // what was asked for before is no answer to what is shown now

function say(text) { part("status").textContent = text; }

function complain(texts) {
  part("problems").firstElementChild.replaceChildren(...texts.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function fault(file) {
  const name = file.name.toLowerCase();
  if (!about.types.some((type) => name.endsWith(type))) return `expected a file that ends in ${about.types.join(", ")}`;
  if (file.size > about.most_bytes) return `${size(file.size)}, expected ${size(about.most_bytes)} at most`;
  return "";
}

function forget() {
  asked += 1;
  complain([]);
  part("results").replaceChildren();
  say("");
  part("grade").disabled = !EYES.some((eye) => chosen[eye]);
}

async function choose(eye, files) {
  part(eye).value = ""; // so that the same file can be chosen again
  forget();
  about = await ready;
  if (files.length !== 1) return complain([`${eye} eye: ${files.length} files, expected one photograph`]);
  const file = files[0];
  const wrong = fault(file);
  if (wrong) return complain([`${eye} eye: ${file.name}: ${wrong}`]);
  chosen[eye] = file;
  show(eye);
  forget();
}

function show(eye) {
  const place = part(`drop-${eye}`);
  const picture = place.querySelector("img");
  const file = chosen[eye];
  if (previews[eye]) URL.revokeObjectURL(previews[eye]);
  previews[eye] = file ? URL.createObjectURL(file) : "";
  picture.hidden = !file;
  // Browsers do not know every type that can be graded.
  picture.onerror = () => { picture.hidden = true; };
  if (file) picture.src = previews[eye]; else picture.removeAttribute("src");
  picture.alt = file ? `${eye} eye, as chosen` : "";
  place.querySelector(".hint").textContent = file ? `${file.name}, ${size(file.size)}` : "drop a fundus photograph here";
}

function clear() {
  for (const eye of EYES) {
    delete chosen[eye];
    show(eye);
  }
  forget();
}

function graded(answer, prefix) {
  const severity = answer[`${prefix}severity`].toFixed(2);
  const most = about.classes.length - 1;
  return `${answer[`${prefix || "predicted_"}grade_name`]}, severity ${severity} of ${most}, ${answer[`${prefix}referable`] ? "" : "not "}to be referred`;
}

function result(answer) {
  const article = part("result").content.cloneNode(true).firstElementChild;
  const find = (selector) => article.querySelector(selector);
  article.dataset.eye = answer.eye;
  find("h2").textContent = `${answer.eye === "right" ? "Right" : "Left"} eye`;
  find(".grade").textContent = graded(answer, "");
  find(".grade").classList.toggle("refer", Boolean(answer.referable));
  find(".detail").textContent = `Uncertainty ${answer.uncertainty.toFixed(2)}: what the highest probability lacks to 1`;
  if (answer.patient_grade_name !== null) find(".both").textContent = `By both eyes: ${graded(answer, "patient_")}`;
  if (answer.low_quality) {
    find(".quality").textContent = `Poor quality (${answer.quality.toFixed(2)}): less than nearly all photographs it was trained on have`;
  }
  for (const name of about.classes) {
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
  for (const name of ["photograph", "relevance"]) {
    find(`.${name}`).src = answer[name];
    find(`.${name}`).alt = `${answer.eye} eye, ${name === "photograph" ? "as the network sees it" : "what the answer rests on"}`;
  }
  return article;
}

async function answer(sent) {
  let response;
  try {
    response = await fetch("/grade", { method: "POST", body: sent });
  } catch {
    throw new Error("The program that grades does not answer: is it still running?");
  }
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

async function grade(event) {
  event.preventDefault();
  const sent = new FormData();
  for (const eye of EYES) if (chosen[eye]) sent.append(eye, chosen[eye]);
  forget();
  const number = asked;
  part("grade").disabled = true;
  say("Grading ...");
  try {
    const found = await answer(sent);
    if (number !== asked) return;
    part("results").replaceChildren(...found.photographs.map(result));
    complain(found.problems.map((one) => `${one.eye} eye: ${one.problem}, ${one.found}`));
    say(found.photographs.length ? "Graded." : "Nothing was graded.");
  } catch (error) {
    if (number !== asked) return;
    say("");
    complain([error.message]);
  } finally {
    if (number === asked) part("grade").disabled = !EYES.some((eye) => chosen[eye]);
  }
}

for (const eye of EYES) {
  const place = part(`drop-${eye}`);
  part(eye).addEventListener("change", () => choose(eye, [...part(eye).files]));
  place.addEventListener("dragover", () => place.classList.add("over"));
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    place.classList.remove("over");
    choose(eye, [...event.dataTransfer.files]);
  });
}
// A photograph dropped beside its place would take the place of the page.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
part("form").addEventListener("submit", grade);
part("clear").addEventListener("click", (event) => { event.preventDefault(); clear(); });

ready.then((told) => {
  part("about").textContent = `Graded by ${told.system}.`;
  part("limits").textContent = `${told.types.join(", ")}, up to ${size(told.most_bytes)} each`;
  for (const eye of EYES) part(eye).accept = told.types.join(",");
}, () => complain(["The program that grades does not answer: start it, and load this page again."]));
