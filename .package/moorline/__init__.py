"""moorline: a gateway (`moorline.gateway`) and a chat backend (`moorline.backend`) for streaming LLM chat."""
