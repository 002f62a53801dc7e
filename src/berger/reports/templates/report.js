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
