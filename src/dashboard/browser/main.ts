document.title = 'Tallygate'
