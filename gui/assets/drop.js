// A file that is dropped where nothing takes it does not take the page's place.
for (const name of ['dragover', 'drop'])
  window.addEventListener(name, (event) => { if ([...event.dataTransfer.types].includes('Files')) event.preventDefault(); });
