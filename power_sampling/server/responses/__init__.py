"""POST /v1/responses: the newer protocol of OpenAI. A request is read as the chat that it stands for; what is stored on
a server there is refused here, since nothing is stored."""
